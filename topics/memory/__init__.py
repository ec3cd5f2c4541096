"""Kafka in memory: the same clients, without a broker, threads or sockets. `memory_kafka.MemoryKafka` is the entry."""
