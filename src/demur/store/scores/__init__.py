"""Scores and branches as parquet files."""
