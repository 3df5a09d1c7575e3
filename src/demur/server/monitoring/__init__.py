"""Monitoring: metrics, logs, live scores, and whether promises are still supported by them."""
