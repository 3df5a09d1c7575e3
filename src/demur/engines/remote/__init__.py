"""Endpoints that speak OpenAI's chat protocol: how their replies, declines and errors are read, in
one place.
"""
