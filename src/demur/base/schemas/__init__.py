"""Bounds on JSON schemas that clients send: their size, and the text that their patterns spell,
without compiling them.
"""
