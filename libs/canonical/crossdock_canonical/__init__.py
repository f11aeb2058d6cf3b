"""Crossdock's canonical model: money, identities and the record types of every contract. Pure; imported by every core."""
