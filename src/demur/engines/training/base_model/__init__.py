"""Base models before training: finding them, examining them, making one from nothing."""
