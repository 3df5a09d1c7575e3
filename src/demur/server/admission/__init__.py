"""Who comes in, and what a connection may cost before it has shown a key."""
