"""One file a stage: a frozen Config and one run(). Stages meet only in files and core types."""
