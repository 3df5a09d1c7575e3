"""What a trainer is asked to do, which rows the weights have seen, and what makes a checkpoint
ready.
"""
