"""vLLM in three ways: offline as an engine, a server with demur's plug-in, an unmodified server.

`engine` scores and writes offline. `two_call_backend` is in front of an unmodified server,
`plugin_backend` in front of one with the plug-in demur.engines.vllm_gate; both read the server's
protocol by `completions_api`. The plug-in itself is made of `policies`, `policy_request`,
`batch_rows`, `open_answers` and `served_model`.
"""
