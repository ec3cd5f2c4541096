"""What happens to records between their sources and the topic: order, pace, selection, transformation."""
