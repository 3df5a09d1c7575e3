"""vLLM: offline as an engine, behind the plug-in, and an unmodified server asked in two calls."""
