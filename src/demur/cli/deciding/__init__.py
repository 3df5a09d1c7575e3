"""Verbs that decide under policies, and look after them."""
