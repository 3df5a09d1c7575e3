"""Training: its settings, the record of rows that weights have seen, and the checks of a
checkpoint.
"""
