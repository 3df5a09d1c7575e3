"""Calibration maps as plain numbers: over all control tokens, over one event, and moved by
rewrites.
"""
