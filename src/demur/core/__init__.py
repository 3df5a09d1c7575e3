"""What refusal tokens are: records and pure functions. No files, no clock, no network, no torch."""
