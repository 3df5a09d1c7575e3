"""What serving a model in this process needs beside the model: grammars in processes of their own,
a watched worker.
"""
