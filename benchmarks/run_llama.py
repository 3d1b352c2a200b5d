"""llama.cpp in a process of its own, by llama-cpp-python's Llama class, with the best of its settings.

Run by an interpreter that has llama_cpp and numpy; nothing of this project's library is imported.
"""

import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.job import (
    LOAD_PROMPT_TOKENS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    WARM_UP_SEED,
    WARM_UP_TOKENS,
    Job,
    memory,
    prompt_ids,
    serve,
)

try:
    import llama_cpp
except ImportError as error:  # said by the benchmark; a traceback would hide it
    raise SystemExit(f"llama_cpp cannot be imported: {error}") from None

N_BATCH = 2048


def load(job: Job, *, num_context: int, num_batch: int = N_BATCH) -> llama_cpp.Llama:
    """With weights repacked for this processor (the default); read unless `job.load` maps them."""
    return llama_cpp.Llama(
        job.model,
        n_ctx=num_context,
        n_batch=max(num_batch, job.ubatch),
        n_ubatch=job.ubatch,
        n_threads=job.num_threads,
        n_threads_batch=job.num_threads,
        flash_attn=True,
        use_mmap=job.load == "mmap",
        verbose=False,
    )


def ids(job: Job, num_tokens: int, seed: int) -> list[int]:
    return prompt_ids(job, num_tokens, seed).tolist()


def answer(llama: llama_cpp.Llama, prompt: list[int], num_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and from it to the last, each token made text."""
    start = time.perf_counter()
    first = 0.0
    text = b""
    tokens = llama.generate(prompt, temp=TEMPERATURE, top_p=TOP_P, top_k=TOP_K, min_p=0.0)
    for count, token in enumerate(tokens, start=1):
        text += llama.detokenize([token])
        first = first or time.perf_counter()
        if count == num_tokens:
            break
    return first - start, time.perf_counter() - first


def warm_up(job: Job, llama: llama_cpp.Llama) -> None:
    answer(llama, ids(job, WARM_UP_TOKENS, WARM_UP_SEED), 4)


def about(job: Job, num_batch: int = N_BATCH) -> dict[str, Any]:
    mapped = "mapped" if job.load == "mmap" else "read"
    return {
        "version": llama_cpp.__version__,
        "settings": f"{job.num_threads} threads, flash attention, weights {mapped} and repacked, "
        f"n_batch {max(num_batch, job.ubatch)}, n_ubatch {job.ubatch}",
        "system_info": llama_cpp.llama_print_system_info().decode().strip(),
    }


def decode(job: Job) -> dict[str, Any]:
    llama = load(job, num_context=context_for(job.prompts[0] + job.num_tokens))
    warm_up(job, llama)
    _, decode_s = answer(llama, ids(job, job.prompts[0], 0), job.num_tokens)
    return {"tokens_per_s": (job.num_tokens - 1) / decode_s, "about": about(job)}


def prefill(job: Job) -> dict[str, Any]:
    llama = load(job, num_context=context_for(max(job.prompts)))
    warm_up(job, llama)
    measured = []
    for seed, num_tokens in enumerate(job.prompts):
        prompt = ids(job, num_tokens, seed)
        llama.reset()
        start = time.perf_counter()
        parts = []
        for begin in range(0, num_tokens, job.ubatch):
            llama.eval(prompt[begin : begin + job.ubatch])
            parts.append((min(begin + job.ubatch, num_tokens), time.perf_counter() - start))
        measured.append({"tokens": num_tokens, "tokens_per_s": num_tokens / parts[-1][1], "parts": parts})
    return {"prompts": measured, "about": about(job)}


def load_task(job: Job) -> dict[str, Any]:
    """From after the imports to a loaded model, and on to the first token of a short question."""
    start = time.perf_counter()
    llama = load(job, num_context=context_for(LOAD_PROMPT_TOKENS))
    loaded_s = time.perf_counter() - start
    answer(llama, ids(job, LOAD_PROMPT_TOKENS, 0), 1)
    first_token_s = time.perf_counter() - start
    return {
        "loaded_s": loaded_s,
        "first_token_s": first_token_s,
        "memory": memory(),
        "about": about(job),
    }


def same_document(job: Job) -> dict[str, Any]:
    """Two questions about a document; then states are saved by hand, where another question begins to differ.

    "A state of it all" is what `save_state` gives after an answer; "of the document", where the caller lets
    the model read the document alone before.
    """
    llama = load_for_states(job)
    warm_up(job, llama)
    asked = {name: ask(job, llama, seed) for seed, name in ((1, "the first"), (2, "another"))}
    save(llama, Path(job.folder) / "all")
    llama.reset()
    llama.eval(ids(job, job.prompts[0], 0))
    save(llama, Path(job.folder) / "document")
    return {"asked": asked, "about": about(job, job.ubatch)}


def restarted(job: Job) -> dict[str, Any]:
    """The same in a process that has nothing, or loads one of the states."""
    llama = load_for_states(job)
    warm_up(job, llama)
    asked = {"another, after a restart": ask(job, llama, 3)}
    for name, file in (("a state of it all", "all"), ("a state of the document", "document")):
        path = Path(job.folder) / file
        start = time.perf_counter()
        llama.load_state(pickle.loads(path.read_bytes()))
        loaded_s = time.perf_counter() - start
        figures = ask(job, llama, 3)
        figures |= {"first_token_s": figures["first_token_s"] + loaded_s, "bytes": path.stat().st_size}
        asked[f"another, after a restart and load_state, {name}"] = figures
    return {"asked": asked, "about": about(job, job.ubatch)}


def load_for_states(job: Job) -> llama_cpp.Llama:
    """With the least batch: its states hold logits of a whole one, 1 MB a token."""
    return load(job, num_context=context_for(sum(job.prompts) + job.num_tokens), num_batch=job.ubatch)


def save(llama: llama_cpp.Llama, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(llama.save_state()))


def ask(job: Job, llama: llama_cpp.Llama, seed: int) -> dict[str, float]:
    """A question about the document of the job: tokens that were computed, seconds to the first token."""
    prompt = ids(job, job.prompts[0], 0) + ids(job, job.prompts[1], seed)
    computed = 0
    evaluate = llama.eval

    def counted(tokens: Sequence[int]) -> None:
        nonlocal computed
        computed += len(tokens)
        evaluate(tokens)

    llama.eval = counted
    try:
        first_token_s, _ = answer(llama, prompt, job.num_tokens)
    finally:
        del llama.eval
    return {"computed": computed - (job.num_tokens - 1), "first_token_s": first_token_s}


def context_for(num_tokens: int) -> int:
    """Whole blocks, with room for the warm-up."""
    return max(512, -(-(num_tokens + 1) // 256) * 256)


if __name__ == "__main__":
    serve(
        {
            "decode": decode,
            "prefill": prefill,
            "load": load_task,
            "same_document": same_document,
            "restarted": restarted,
        }
    )
