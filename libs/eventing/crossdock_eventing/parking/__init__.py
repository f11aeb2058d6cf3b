"""Parked keys: a rejected message and everything behind it, in order, until an operator lets them go. See ADR 13."""
