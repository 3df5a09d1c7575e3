"""Verbs that make a run: a stage each, and all of them."""
