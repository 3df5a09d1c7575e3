"""Judges against people: agreement, correction, and whether texts keep the word of their token."""
