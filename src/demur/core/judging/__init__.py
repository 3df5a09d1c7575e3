"""Judging many answers, benchmarks among them, and asking a chat model each question once."""
