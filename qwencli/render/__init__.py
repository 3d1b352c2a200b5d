"""Showing the event stream: on a terminal, as plain text, as JSON. Knows `qwen35.events` alone."""
