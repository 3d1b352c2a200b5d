"""Experts that do not all fit into memory: read from disk when they are chosen, kept while there is room."""
