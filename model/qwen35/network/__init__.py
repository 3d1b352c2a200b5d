"""The forward pass, and nothing else: plain PyTorch, readable, differentiable.

It is the meaning of the program. Every fast path is tested against it. No module here keeps a
buffer or a cache: what a step leaves behind is returned, and arrives again as an argument.
"""
