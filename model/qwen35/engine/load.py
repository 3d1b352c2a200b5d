"""A model folder to a ready Engine: which device, which dtype, which backend."""

import gc
import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qwen35.backends.base import Backend
from qwen35.backends.native import library as native
from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.readers import NativeReaders
from qwen35.cache.cache import StateCache
from qwen35.cache.store import Store
from qwen35.config import ModelConfig
from qwen35.cores import num_cores
from qwen35.engine.engine import Engine
from qwen35.engine.grammar import Grammars
from qwen35.engine.request import GenerationDefaults
from qwen35.engine.speculation import Speculate, Speculating
from qwen35.errors import DoesNotFit
from qwen35.experts.layers import LayerStream
from qwen35.experts.readers import Readers
from qwen35.experts.store import ExpertStore
from qwen35.memory import available_memory
from qwen35.processing.processor import Processor
from qwen35.weights.fingerprint import fingerprint
from qwen35.weights.manifest import is_packed
from qwen35.weights.packed import PackedModel
from qwen35.weights.placement import ROOM, LoadMode, text_experts
from qwen35.weights.placement_torch import TorchPlacement, TorchQuant, place_torch

COMPILING = "compiling the native kernels for this machine, once (half a minute)"


@dataclass(frozen=True, slots=True)
class States:
    """Where computed states are kept, and how much of them. `folder` None: in memory alone."""

    folder: Path | None
    disk_bytes: int
    ram_bytes: int
    can_write: bool = True


def load_engine(
    folder: Path,
    *,
    processor: Processor | None = None,
    device: str = "auto",
    dtype: str | None = None,
    load: LoadMode = "auto",
    ram: int | None = None,
    quant: TorchQuant | None = None,
    num_threads: int | None = None,
    cache: Path | None = None,
    states: States | None = None,
    speculate: Speculate = 0,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Engine:
    """Load the model of `folder`, whose `processor` the caller may have already.

    `device` is auto, cpu or cuda; `dtype` None keeps the file's; `load` and `ram` (bytes) are how
    `PackedModel.open` brings packed weights into memory; `ram` and `quant` are what `place_torch` does with
    unpacked ones. A packed model runs on the native library and needs no torch, unless `device` is cuda.
    Where the library is missing it is compiled into `cache`; if that fails, `on_note` hears of the slower
    way. `states` says where states of prompts are kept; None computes all of them anew. `speculate`: how many
    tokens a packed model's MTP module drafts at a time. `on_progress` hears
    bytes read and bytes in all. The small files are read first, so that a broken folder is reported before
    torch is imported. Raises CheckpointError, and DoesNotFit where the device, the memory or a package is
    missing.
    """
    ram = _within_memory(ram, on_note) if load != "mmap" else ram
    processor = processor or Processor.from_folder(folder)
    defaults = GenerationDefaults.from_folder(folder)
    grammars = Grammars(processor.tokenizer, defaults.stop_ids)
    if quant and is_packed(folder):
        if on_note:
            on_note(f"--quant {quant}: for unpacked models alone; {folder.name} stays as it was packed")
        quant = None
    if is_packed(folder) and device != "cuda":
        library, reason = native.load(cache, on_compile=lambda: on_note(COMPILING) if on_note else None)
        if library:
            weights = PackedModel.open(folder, load, on_progress, ram)
            if on_note and load == "auto" and weights.placement.load == "mmap" and not weights.placement.fits:
                on_note(f"{folder.name} is larger than the free memory: it is read from disk again and again")
            hot = cache / "experts" if cache and states and states.can_write else None
            new_readers = partial(NativeReaders, library)
            with ExitStack() as opened:  # closed where the rest goes wrong
                opened.callback(weights.close)
                if store := _expert_store(folder, weights, hot, new_readers, on_note):
                    opened.callback(store.close)
                if stream := _layer_stream(weights, new_readers, on_note):
                    opened.callback(stream.close)
                backend = NativeBackend(
                    library,
                    weights,
                    num_threads=num_threads or num_cores(),
                    store=store,
                    stream=stream,
                    prefill_chunk=weights.placement.prefill_chunk,
                )
                opened.pop_all()
            states_of_it = _cache(weights.manifest.fingerprint, backend, processor, states)
            if speculate == "auto" and (store or weights.placement.is_tight):
                speculate = 0  # states that are kept for drafts would take what layers and experts need
            speculating = Speculating(speculate) if speculate else None
            return Engine(backend, processor, defaults, grammars, states_of_it, speculating)
        if on_note:
            on_note(f"no native kernels ({reason}): {folder.name} is unpacked and runs on torch, slowly")

    import torch

    from qwen35.backends.plain import PlainBackend, memory_errors_explained
    from qwen35.weights.bitsandbytes_linear import numerics_of
    from qwen35.weights.load import load_model

    if num_threads:
        torch.set_num_threads(num_threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise DoesNotFit("--device cuda: torch finds no CUDA device here. Use --device cpu.")
    if on_note:
        _note_what_torch_leaves(folder, device, load, speculate, on_note)
    quant_name = numerics_of(quant) if quant else ""
    gpu_bytes = 0
    if device == "cuda":
        with memory_errors_explained():  # even the first call needs room, which others may have taken
            gc.collect()
            torch.cuda.empty_cache()  # of a model that was closed: torch keeps it, and it would count as used
            gpu_bytes = int(ROOM * torch.cuda.mem_get_info()[0])

    def place(config: ModelConfig) -> TorchPlacement:
        placement = place_torch(
            config, dtype or config.dtype, device=device, ram=ram, gpu_bytes=gpu_bytes, quant=quant
        )
        if on_note:
            for note in placement.notes():
                on_note(note)
        return placement

    with memory_errors_explained():
        model = load_model(
            folder,
            processor.config,
            device=device,
            dtype=getattr(torch, dtype) if dtype else None,
            place=place,
            on_progress=on_progress,
        )
    plain = PlainBackend(model, quant_name)
    weights_name = fingerprint(folder) if states else ""
    return Engine(plain, processor, defaults, grammars, _cache(weights_name, plain, processor, states))


def _within_memory(ram: int | None, on_note: Callable[[str], None] | None) -> int | None:
    """What is there of the `ram` bytes that may be taken: for the rest the system would swap."""
    if ram is None or ram <= (available := available_memory()):
        return ram
    if on_note:
        free = f"{available / 1e9:.1f}"
        on_note(f"--ram allows {ram / 1e9:.1f} GB, but {free} GB of memory are free: no more is taken")
    return available


def _note_what_torch_leaves(
    folder: Path, device: str, load: LoadMode, speculate: Speculate, on_note: Callable[[str], None]
) -> None:
    """What the user asked for that is not done there, and what a packed model becomes on a GPU."""
    if is_packed(folder) and device == "cuda":
        on_note(f"{folder.name} is unpacked for the GPU: it takes up to four times its size there")
    if load != "auto":
        on_note(f"--load {load}: for packed models on the CPU alone; {folder.name} is read into memory")
    if isinstance(speculate, int) and speculate:
        on_note(f"--speculate {speculate}: for packed models on the CPU alone; nothing is drafted")


def _expert_store(
    folder: Path,
    weights: PackedModel,
    hot: Path | None,
    new_readers: Callable[[], Readers],
    on_note: Callable[[str], None] | None,
) -> ExpertStore | None:
    """Of a model whose experts stay on the disk. `hot`: a folder for what the next run begins with."""
    placement, layers = weights.placement, text_experts(weights.manifest)
    if placement.expert_bytes is None:
        return None
    total = sum(entry.count * entry.stride for entry in layers)
    if on_note and placement.expert_bytes < total:
        on_note(
            f"{placement.expert_bytes / 1e6:,.0f} of {total / 1e6:,.0f} MB of experts fit into memory: the "
            "others are read from disk when they are chosen"
        )
    name = f"{weights.manifest.fingerprint[:16]}.json"
    return ExpertStore(
        folder,
        layers,
        placement.expert_bytes,
        ram_bytes=placement.ram_bytes,
        hot=hot / name if hot else None,
        readers=new_readers(),
    )


def _layer_stream(
    weights: PackedModel, new_readers: Callable[[], Readers], on_note: Callable[[str], None] | None
) -> LayerStream | None:
    """Of a model whose layers do not all fit into memory."""
    if not weights.placement.is_tight:
        return None
    if on_note and weights.config.vision:
        on_note("what sees pictures is not kept in memory: it is read from disk for each of them")
    if not weights.streamed:
        return None
    if on_note:
        total, streamed = weights.config.text.num_hidden_layers, weights.streamed
        num_bytes = sum(layer.stretch.size_bytes for layer in streamed)
        on_note(
            f"{total - len(streamed)} of {total} layers fit into memory: the others "
            f"({num_bytes / 1e6:,.0f} MB) are read from disk at every step"
        )
    return LayerStream(weights, new_readers())


def _cache(
    weights_name: str, backend: Backend, processor: Processor, states: States | None
) -> StateCache | None:
    if states is None:
        return None
    return StateCache(
        hashlib.sha256(f"{weights_name} {backend.numerics}".encode()).hexdigest(),
        backend.new_state,
        lambda ids: processor.tokenizer.decode(ids, skip_special=False),
        Store(states.folder, states.disk_bytes) if states.folder else None,
        ram_bytes=states.ram_bytes,
        can_write=states.can_write,
    )
