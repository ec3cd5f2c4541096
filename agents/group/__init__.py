"""The consumer group, and a worker's place and identity in it."""
