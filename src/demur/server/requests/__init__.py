"""A request: what it may say, what a backend is asked of it, and what stands around every
answer.
"""
