"""Floor 0, which every other floor may import: errors, array types, and the reading and writing of
files.
"""
