"""Clients of endpoints that speak OpenAI's protocol, and the backends in front of them.

From the bytes up: `bounded_read` (size limits), `dialect` and `http_request` (one request),
`completion` and `declines` (parsing a reply), `upstream` (a server's client, typed errors) and
`chat_client` (many questions, retries, a budget), `answer_stream` (events to parts of an answer),
`chat_backend` and `pre_answer` (backends), `guard_chat` (a guard model as scorer).
"""
