"""The test kit: an app runs in worlds with Kafka in memory, under a virtual clock, with faults that a seed decides."""
