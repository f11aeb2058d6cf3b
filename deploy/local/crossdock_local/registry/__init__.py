"""A schema registry with Confluent's REST API, over the compacted `_schemas` topic in Confluent's record
format.

`state` folds the topic, `commands` decides what to write, `service` is the single writer that joins them to
the topic (`log`), `http` is the REST API, `python -m crossdock_local.registry` the process. Because the
records are Confluent's, a Confluent registry pointed at the same cluster carries on where this one stopped.
"""
