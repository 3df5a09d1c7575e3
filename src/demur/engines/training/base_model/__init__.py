"""Base models before training: where they lie, what training would do with them, one from
nothing.
"""
