"""What a running server notes: drift of its scores, live scores, logs and metrics."""
