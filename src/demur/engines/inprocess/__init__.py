"""Serving a model in this process: the backend, its decoding thread, grammars of JSON answers."""
