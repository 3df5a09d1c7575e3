"""The HTTP server: OpenAI's chat protocol in front of any demur.core.serving.Backend.

`start` puts a service together from a run and its settings, `app` has the routes, `chat` answers a
request, `process` runs the event loop.
"""
