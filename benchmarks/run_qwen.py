"""This project's engine in a process of its own: the Engine that `qwen ask` calls, sampler and text included.

Prompts come prepared, as ids: so that all engines get the same number of tokens.
"""

import shutil
import time
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.job import (
    LOAD_PROMPT_TOKENS,
    WARM_UP_SEED,
    WARM_UP_TOKENS,
    Job,
    memory,
    prompt_ids,
    reset_peak,
    serve,
)
from benchmarks.routing import Local
from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.layers import Layer
from qwen35.engine.engine import Engine, prepare
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request
from qwen35.events import ExpertUse, Finished, PictureProgress
from qwen35.experts.files import RecordFile
from qwen35.experts.guesses import Guesses
from qwen35.experts.layers import PIECE
from qwen35.experts.readers import NUM_READERS, Read, ThreadReaders
from qwen35.experts.store import ExpertStore
from qwen35.memory import allocate
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.processing.processor import ModelInput
from qwen35.weights.layout import TEXT
from qwen35.weights.manifest import read_manifest
from qwen35.weights.placement import text_experts
from qwencli.speed import endless, measure, prompt_of

Floats = NDArray[np.float32]
Chosen = NDArray[np.int32]
PLENTY = 10**12  # bytes
PROBED_RECORDS = 100
DRAWN_AHEAD = 1024  # choices of each layer, which then come again


def load(job: Job) -> Engine:
    engine = load_engine(
        Path(job.model),
        device="cpu",
        load=job.load,
        ram=job.ram,
        num_threads=job.num_threads,
        states=States(Path(job.folder), PLENTY, PLENTY) if job.folder else None,
    )
    if not job.guesses:
        forbid_guesses(engine)
    if job.routing == "local":
        impose_local_routing(engine)
    return engine


def forbid_guesses(engine: Engine) -> None:
    assert isinstance(engine.backend, NativeBackend)
    assert engine.backend._store
    engine.backend._store.wants_guess = lambda layer: False  # type: ignore[method-assign]


def impose_local_routing(engine: Engine) -> None:
    """Experts are chosen as real models choose them, whatever the random weights say.

    Guesses at these choices are right as often, by layer and rank, as the weights' own are at theirs.
    """
    backend, text = engine.backend, engine.processor.config.text
    assert isinstance(backend, NativeBackend)
    assert text.moe is not None
    moe, run, store = text.moe, backend._run_experts, backend._store
    assert store
    guess, rng = store.guess, np.random.default_rng(0)
    layers = [Local(moe.num_experts, moe.num_experts_per_tok, i) for i in range(text.num_hidden_layers)]
    # Drawn before anything is measured: a draw costs half as much as a layer's experts.
    drawn = [cycle([layer.draw().astype(np.int32)[None] for _ in range(DRAWN_AHEAD)]) for layer in layers]
    wrong = cycle(rng.integers(0, moe.num_experts, DRAWN_AHEAD * moe.num_experts_per_tok).tolist())
    # One more, so that the same luck does not meet the same layer and rank at every round.
    luck = cycle(rng.random(DRAWN_AHEAD * moe.num_experts_per_tok + 1).tolist())
    coming: dict[int, Chosen] = {}
    own = [Guesses() for _ in layers]

    def draw(index: int, count: int) -> Chosen:
        return next(drawn[index]) if count == 1 else np.concatenate([*islice(drawn[index], count)])

    def imposed_guess(index: int, guessed: Chosen) -> None:
        own[index].likely(guessed.tolist(), [[True] * guessed.shape[1]] * len(guessed))
        coming[index] = draw(index, len(guessed))
        shares = own[index].right
        said = [
            [right if next(luck) < share else next(wrong) for right, share in zip(row, shares, strict=True)]
            for row in coming[index].tolist()
        ]
        guess(index, np.array(said, np.int32))

    def imposed(
        store: ExpertStore, index: int, layer: Layer, h: Floats, chosen: Chosen, *rest: Floats
    ) -> None:
        own[index].judge(chosen)
        chosen[:] = coming.pop(index) if index in coming else draw(index, len(chosen))
        run(store, index, layer, h, chosen, *rest)

    store.guess = imposed_guess  # type: ignore[method-assign, assignment]
    backend._run_experts = imposed  # type: ignore[method-assign, assignment]


def prompt(job: Job, engine: Engine, num_tokens: int, seed: int) -> ModelInput:
    return prompt_of(prompt_ids(job, num_tokens, seed), engine.processor.config)


def warm_up(job: Job, engine: Engine) -> None:
    measure(replace(engine, cache=None), prompt(job, engine, WARM_UP_TOKENS, WARM_UP_SEED), 4)


def about(engine: Engine) -> dict[str, Any]:
    return {"version": version("qwen"), "settings": engine.backend.name}


def decode(job: Job) -> dict[str, Any]:
    engine = load(job)
    warm_up(job, engine)
    if isinstance(engine.backend, NativeBackend) and engine.backend.layer_use:
        return decode_streamed(job, engine, engine.backend)
    if engine.backend.expert_use:  # what the prompt leaves in memory is not what tokens will
        measure(engine, prompt(job, engine, job.prompts[0], 1), 2 * job.num_tokens)
    before: list[ExpertUse | None] = []

    def hear(what: str, done: int, total: int) -> None:
        if what == "prefill" and done == total:
            before.append(engine.backend.expert_use)

    speed = measure(engine, prompt(job, engine, job.prompts[0], 0), job.num_tokens, hear)
    figures = {"tokens_per_s": speed.decode_tokens_per_s, "about": about(engine)}
    use = engine.backend.expert_use
    if use is None:
        return figures
    figures |= {"peak_bytes": memory()["peak"]}  # what follows takes memory of its own
    engine.close()
    return figures | experts(job, use.since(before[0] or ExpertUse()))


def decode_streamed(job: Job, engine: Engine, backend: NativeBackend) -> dict[str, Any]:
    """The same of a model whose layers are read at every step."""
    before: list[ExpertUse] = []

    def hear(what: str, done: int, total: int) -> None:
        if what == "prefill" and done == total:
            before.append(backend.layer_use or ExpertUse())

    speed = measure(engine, prompt(job, engine, job.prompts[0], 0), job.num_tokens, hear)
    assert backend.layer_use
    use = backend.layer_use.since(before[0])
    figures = {
        "tokens_per_s": speed.decode_tokens_per_s,
        "about": about(engine),
        "peak_bytes": memory()["peak"],
    }
    engine.close()
    return figures | on_disk(job, use, disk_speed(Path(job.model) / TEXT, PIECE))


def experts(job: Job, use: ExpertUse) -> dict[str, Any]:
    """Of the decoded tokens; and how fast the disk gives such records, at random, beside nothing else."""
    entry = text_experts(read_manifest(Path(job.model)))[0]
    return on_disk(job, use, disk_speed(Path(job.model) / entry.file, entry.stride))


def on_disk(job: Job, use: ExpertUse, disk_bytes_per_s: float) -> dict[str, Any]:
    return {
        "hit_rate": use.hit_rate,
        "bytes_per_token": use.bytes_read / (job.num_tokens - 1),
        "wasted_per_token": use.bytes_wasted / (job.num_tokens - 1),
        "stall_s": use.stall_s,
        "arena_bytes": use.arena_bytes,
        "disk_bytes_per_s": disk_bytes_per_s,
    }


def disk_speed(path: Path, num_bytes: int) -> float:
    """Bytes per second of PROBED_RECORDS reads of that many bytes, anywhere in the file."""
    file = RecordFile(str(path))
    readers = ThreadReaders()
    wanted = np.random.default_rng(0).permutation(path.stat().st_size // num_bytes)[:PROBED_RECORDS]
    slots = [np.frombuffer(allocate(num_bytes), np.uint8) for _ in range(NUM_READERS)]
    for slot in slots:
        slot.fill(1)  # in memory by now
    reads = [
        Read(file, int(record) * num_bytes, slots[i % NUM_READERS], []) for i, record in enumerate(wanted)
    ]
    start = time.perf_counter()
    readers.submit(reads, is_urgent=True)
    readers.wait(reads)
    seconds = time.perf_counter() - start
    readers.close()
    file.close()
    return len(reads) * num_bytes / seconds


def prefill(job: Job) -> dict[str, Any]:
    engine = load(job)
    warm_up(job, engine)
    measured = []
    for seed, num_tokens in enumerate(job.prompts):
        speed = measure(engine, prompt(job, engine, num_tokens, seed), 1)
        measured.append(
            {"tokens": num_tokens, "tokens_per_s": speed.prefill_tokens_per_s, "parts": speed.parts}
        )
    return {"prompts": measured, "about": about(engine)}


def load_task(job: Job) -> dict[str, Any]:
    """From after the imports to a loaded model, and on to the first token of a short question."""
    start = time.perf_counter()
    engine = load(job)
    loaded_s = time.perf_counter() - start
    measure(engine, prompt(job, engine, LOAD_PROMPT_TOKENS, 0), 1)
    first_token_s = time.perf_counter() - start
    return {
        "loaded_s": loaded_s,
        "first_token_s": first_token_s,
        "memory": memory(),
        "about": about(engine),
    }


def vision(job: Job) -> dict[str, Any]:
    engine = load(job)
    warm = ImagePart(np.zeros((64, 64, 3), np.uint8), "warm-up")
    encode(engine, warm)
    height, width = job.picture
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reset_peak()
    before = memory()["resident"]
    figures = encode(engine, ImagePart(pixels, "noise"))
    return figures | {"added_bytes": memory()["peak"] - before, "about": about(engine)}


def same_document(job: Job) -> dict[str, Any]:
    """Two questions about a document, the second of which goes on from the first one's states."""
    shutil.rmtree(job.folder, ignore_errors=True)
    engine = load(job)
    warm_up(job, engine)
    asked = {name: ask(job, engine, seed) for seed, name in ((1, "the first"), (2, "another"))}
    engine.close()
    return {"asked": asked, "about": about(engine)}


def restarted(job: Job) -> dict[str, Any]:
    """Another question, in another process."""
    engine = load(job)
    warm_up(job, engine)
    return {"asked": {"another, after a restart": ask(job, engine, 3)}, "about": about(engine)}


def ask(job: Job, engine: Engine, seed: int) -> dict[str, float]:
    """A question about the document of the job: tokens that were computed, seconds to the first token."""
    document, question = prompt_ids(job, job.prompts[0], 0), prompt_ids(job, job.prompts[1], seed)
    ends = (len(document),)
    asked = prompt_of(np.concatenate([document, question]), engine.processor.config)
    asked = replace(asked, boundaries=ends, document_ends=ends)
    request = Request((Message.of_text("user", "?"),), max_tokens=job.num_tokens)
    finished = list(endless(engine).generate(request, asked))[-1]
    assert isinstance(finished, Finished)
    usage = finished.usage
    return {
        "computed": usage.prompt_tokens - usage.cached_tokens,
        "first_token_s": finished.timings.first_token_s,
    }


def encode(engine: Engine, picture: ImagePart) -> dict[str, Any]:
    """A question about a picture up to where its features are there."""
    start = time.perf_counter()
    request = Request((Message("user", (picture, TextPart("?"))),), max_tokens=1)
    prepared = prepare(engine.processor, request)
    begun = time.perf_counter()
    with closing(engine.generate(request, prepared)) as events:
        next(event for event in events if isinstance(event, PictureProgress))
        encoded = time.perf_counter()
    return {
        "prepare_s": begun - start,
        "encode_s": encoded - begun,
        "patches": len(prepared.pixel_values),
        "tokens": prepared.media[0].length,
    }


if __name__ == "__main__":
    serve(
        {
            "decode": decode,
            "prefill": prefill,
            "load": load_task,
            "vision": vision,
            "same_document": same_document,
            "restarted": restarted,
        }
    )
