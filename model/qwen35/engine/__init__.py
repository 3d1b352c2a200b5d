"""Prefill, decode, events: from a prepared prompt to text."""
