"""Weights that do not all fit into memory: experts read when they are chosen, layers at every step."""
