"""Self-contained pages: what a report and a study are drawn with. Knows nothing of refusals, runs
or policies.
"""
