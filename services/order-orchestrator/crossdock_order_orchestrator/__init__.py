"""The order orchestrator: the life of every order, from the channel's message to completion, and its money ledger."""
