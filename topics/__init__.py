"""How records travel and rest: clusters, producers, plans, topics, the embedded broker."""
