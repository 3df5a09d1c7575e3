"""Promises for the mix of traffic that was seen without labels.

mix: from scores of traffic to rows that are promised for its mix. bounds: of the shares that slices
have of it. rows: tests and bounds of a rate under every mix within these.
"""
