"""How the built-in model `mini` is made: its data, its tokenizer, its training and its evaluation."""
