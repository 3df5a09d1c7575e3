"""Puts runs together from their parts: the only place that knows every name."""
