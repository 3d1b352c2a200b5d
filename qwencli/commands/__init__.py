"""One file for each command. Heavy imports stand inside the functions, so that `qwen --help` is quick."""
