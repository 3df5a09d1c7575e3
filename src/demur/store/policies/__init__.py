"""Policies and what surrounds them on disk: folders, signatures, trust, tenants and their keys,
calibrators.
"""
