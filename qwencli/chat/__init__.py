"""`qwen chat`: a conversation at the prompt, or by lines on standard input."""
