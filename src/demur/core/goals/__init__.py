"""Goals: kinds of them, how they read, and what comes of them. A new promised kind is a class in
promised.py.
"""
