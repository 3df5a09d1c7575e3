"""Admission: keys, rates and concurrency, and what connections may cost before they show a key."""
