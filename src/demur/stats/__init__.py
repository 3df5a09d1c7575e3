"""Arithmetic on scored, labelled rows: thresholds, promises, measurements. No files, no models, no
plots.
"""
