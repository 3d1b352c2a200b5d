"""Checkpoint files to filled parameters: headers, names, assignment, reading."""
