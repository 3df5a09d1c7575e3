"""Errors of a monitor on labelled rows."""
