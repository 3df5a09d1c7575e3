"""Models of transformers in this process: loading, scoring, writing, and the looks that demur takes
at a checkpoint.
"""
