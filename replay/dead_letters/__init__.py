"""Dead letters: listed, counted, and re-published to the agents that failed."""
