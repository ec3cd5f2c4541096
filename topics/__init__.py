"""A Kafka cluster and what is in it: clients, topics, groups, partitioners, encodings; and the embedded broker."""
