"""The engine: polls, hands records to agents, and commits what they did as one transaction."""
