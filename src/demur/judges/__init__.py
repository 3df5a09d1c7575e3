"""Judges of answers: by phrases, by a trained classifier, by a chat model, in WildGuard's
format.
"""
