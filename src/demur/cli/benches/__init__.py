"""`demur bench`: verbs that compare models, calibrators and benchmarks."""
