"""The way of records from their sources to the topic: order, pace, selection, transformation."""
