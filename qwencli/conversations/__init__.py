"""Conversations as they are kept on this machine: one SQLite file, and the bytes of what was attached."""
