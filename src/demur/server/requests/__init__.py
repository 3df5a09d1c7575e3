"""A request: its schema, its translation for the backend, its context, and the middleware."""
