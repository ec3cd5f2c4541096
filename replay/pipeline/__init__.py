"""The pipeline of a replay between its sources and the topic: order, pace, selection, transform, packing."""
