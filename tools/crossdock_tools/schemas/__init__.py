"""`crossdock schemas`: the contracts as files, as Python types, and in the registry."""
