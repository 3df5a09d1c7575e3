"""The HTTP face: OpenAI's chat protocol in front of any demur.core.serving.Backend, with its doors
closed.
"""
