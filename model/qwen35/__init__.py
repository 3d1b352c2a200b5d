"""Qwen3.5-family models as a library: configuration, processing, network, weights, engine.

It knows no terminal and prints nothing. The road of one question runs through
`processing` (messages to ids and patches), `backends` (how blocks are run), `network` (what
they mean) and `engine` (prefill, decode, events).
"""
