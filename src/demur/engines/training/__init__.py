"""Training: where base models come from, and how they learn their control tokens."""
