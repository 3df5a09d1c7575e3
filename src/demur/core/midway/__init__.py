"""Decisions after the first answer position."""
