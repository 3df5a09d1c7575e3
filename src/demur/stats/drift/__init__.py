"""Whether live traffic still looks like the rows that a promise was made on.

compare: one look at a window. martingale: an unlabelled test that may be looked at after every
request. audit: the same for labelled answers, against the level of a promise. watch: what both mean
for the promises of a policy.
"""
