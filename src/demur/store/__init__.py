"""The artifacts of a run: versioned formats, digests, atomic writes, the run folder."""
