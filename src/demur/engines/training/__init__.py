"""Training: finding base models, preparing them, and teaching them their control tokens."""
