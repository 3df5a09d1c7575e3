"""Drift: whether live traffic still looks like the rows that a promise was made on.

compare: tests of one window. martingale: an unlabelled test that may be looked at after every
request. audit: the same for labelled answers, against the level of a promise. monitor: the status
that both give a policy's promises.
"""
