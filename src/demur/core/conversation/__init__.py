"""Parts of a conversation beside its plain messages: folded turns, thoughts, languages, declared
text.
"""
