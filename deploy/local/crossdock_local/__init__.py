"""A Kafka broker and a schema registry on this machine, without Docker.

Called by the `crossdock` command line (`up`, `down`, `status`), by the test fixtures and by whatever needs to
know where Kafka and the registry are (`addresses`).
"""
