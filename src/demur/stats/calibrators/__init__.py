"""Fitting calibrators, one file a family. Scores in, records of demur.core out; choose.py compares
the families.
"""
