"""The model on a CPU without torch: C++ kernels behind a plain C ABI, called by ctypes on numpy buffers.

`src/` is the library, `compiler.py` makes it, `build.py` does so on installation, `library.py` finds and
describes it, `layers.py` hands it the weights, `vision.py` and `backend.py` run the model on it.
"""
