"""Where rows come from: the built-in corpus, JSONL files, Hugging Face datasets."""
