"""Kafka behind an interface, with an in-memory twin."""
