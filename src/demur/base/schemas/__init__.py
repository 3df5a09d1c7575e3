"""JSON schemas that other people send: how large they are, and what their patterns spell, without
compiling one.
"""
