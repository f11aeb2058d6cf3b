"""Every test may ask for `kafka_bootstrap` and `schema_registry_url`: one cluster a session."""

pytest_plugins = ["crossdock_local.fixtures"]
