"""Sources of rows: the built-in corpus, files, Hugging Face datasets, benchmarks, dated news.

`corpus`, `files` and `hub` are the sources of a run. `benchmarks` loads public refusal benchmarks
by `benchmark_table`. `guess` and `config_draft` write the config for files of unknown columns.
`news`, `news_api` and `temporal` make questions beyond a model's knowledge cutoff.
"""
