"""Whether probabilities mean what they say: views of a forecast, errors of calibration, and what comes of comparing them.

views: a forecast seen as pairs of a probability and an event, sorted once. binned, class_wise, binless, smooth, canonical,
proper: families of measurements. metrics: the benchmark's 102 in one call. uncertainty: how sure they are. study: many models.
"""
