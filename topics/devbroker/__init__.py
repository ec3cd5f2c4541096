"""The embedded broker: Apache Kafka fetched once, started as a child process, and ended with it."""
