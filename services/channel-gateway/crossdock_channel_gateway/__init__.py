"""The edge between selling channels, locations, payment provider and the backbone: HTTP in, Kafka; Kafka in, HTTP out."""
