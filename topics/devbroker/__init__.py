"""The embedded broker: Apache Kafka, downloaded once, run as a child of this process or in the background."""
