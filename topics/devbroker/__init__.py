"""The embedded broker: Apache Kafka, downloaded once, as a child process that ends with this process, or in the background."""
