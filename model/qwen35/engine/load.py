"""A model folder to a ready Engine: which device, which dtype, which backend."""

from collections.abc import Callable
from pathlib import Path

from qwen35.engine.engine import Engine
from qwen35.engine.request import GenerationDefaults
from qwen35.errors import DoesNotFit
from qwen35.processing.processor import Processor


def load_engine(
    folder: Path,
    *,
    processor: Processor | None = None,
    device: str = "auto",
    dtype: str | None = None,
    num_threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Engine:
    """Load the model of `folder`, whose `processor` the caller may have already.

    `device` is auto, cpu or cuda; `dtype` None keeps the file's.
    `on_progress` hears bytes read and bytes in all. The small files are read first, so that a broken
    folder is reported before torch is imported. Raises CheckpointError, and DoesNotFit where the
    device is missing.
    """
    processor = processor or Processor.from_folder(folder)
    defaults = GenerationDefaults.from_folder(folder)

    import torch

    from qwen35.backends.plain import PlainBackend, memory_errors_explained
    from qwen35.weights.load import load_model

    if num_threads:
        torch.set_num_threads(num_threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise DoesNotFit("--device cuda: torch finds no CUDA device here. Use --device cpu.")
    with memory_errors_explained():
        model = load_model(
            folder,
            processor.config,
            device=device,
            dtype=getattr(torch, dtype) if dtype else None,
            on_progress=on_progress,
        )
    return Engine(PlainBackend(model), processor, defaults)
