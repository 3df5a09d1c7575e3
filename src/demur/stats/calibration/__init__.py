"""Measurements of calibration: whether probabilities agree with frequencies.

views: a forecast as pairs of a probability and an event, sorted once. binned, binless, smooth,
proper: families of measurements. metrics: the benchmark's 102 of them in one call. uncertainty:
bootstrap intervals. ranking, study: comparisons over many models and calibrators.
"""
