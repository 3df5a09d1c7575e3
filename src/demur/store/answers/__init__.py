"""Answers, what judges and people said of them, and what was paid for, kept once."""
