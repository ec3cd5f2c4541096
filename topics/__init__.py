"""How records travel and rest: clusters, producers, partitioners, topics, the embedded broker."""
