"""The returns service: what may come back, what came back, and the credit it is worth."""
