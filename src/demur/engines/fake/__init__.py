"""Engines without weights, for tests and documentation."""
