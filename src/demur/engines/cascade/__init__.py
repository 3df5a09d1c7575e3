"""A front model before a real one: scoring and serving under one policy."""
