"""Answers that a program reads: schemas and how they are written, checked, and rendered."""
