"""Models of transformers in this process: loading, scoring, writing, examining checkpoints."""
