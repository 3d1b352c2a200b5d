"""`qwen batch` from its inputs to its output: what the items are, how each is read, where its answer goes."""
