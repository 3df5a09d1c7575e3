"""Fitting classifiers of prompts and answers."""
