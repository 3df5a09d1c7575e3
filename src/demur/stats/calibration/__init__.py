"""Whether probabilities mean what they say.

views: a forecast as pairs of a probability and an event, sorted once. binned, binless, smooth,
proper: families of measurements. metrics: the benchmark's 102 of them in one call. uncertainty: how
sure they are. ranking, study: what many models and calibrators say together.
"""
