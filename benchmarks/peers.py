"""Who takes part in a benchmark of language models: engines, their models on the disk, bits and bytes.

qwen-q4        all matrices q4, embedding and head too: the bits of the peer
llama          llama.cpp, Q4_0 throughout
qwen           the recipe that `qwen models pack` ships (embedding and head q8)
llama-q8-head  llama.cpp, Q4_0 with embedding and head in Q8_0
transformers   bfloat16
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.harness import Contender, say
from benchmarks.job import Job
from benchmarks.synthetic import SIZES, TINY_SIZES, Size, config_json, tensors, write_checkpoint
from benchmarks.synthetic_gguf import gguf_tensors, write_gguf
from benchmarks.synthetic_packed import RECIPES, layout_hash, write_packed
from qwen35.config import ModelConfig
from qwen35.weights.packed import open_manifest, packed_config
from qwencli.bandwidth import decode_bytes, state_bytes

ALL_SIZES = SIZES | TINY_SIZES
NAMES = ("qwen-q4", "llama", "qwen", "llama-q8-head", "transformers")
RECIPE_OF = {"qwen-q4": "all-q4", "qwen": "default"}
HEAD_OF = {"llama": "Q4_0", "llama-q8-head": "Q8_0"}
TITLES = {
    "qwen-q4": "qwen, all q4",
    "llama": "llama.cpp Q4_0",
    "qwen": "qwen, default recipe",
    "llama-q8-head": "llama.cpp Q4_0, head Q8_0",
    "transformers": "transformers bf16",
}
BASE = TITLES["llama"]  # ratios are to this one
MAX_TRANSFORMERS = 5e9  # bytes of bfloat16: larger checkpoints are not written for it unless it is asked for


@dataclass(frozen=True, slots=True)
class Shape:
    """A size of the family, perhaps with fewer layers."""

    name: str
    size: Size

    @classmethod
    def of(cls, name: str, num_layers: int | None) -> "Shape":
        """35B-A3B has 12 layers unless told otherwise: whole it fills 20 GB of disk and of memory."""
        size = replace(ALL_SIZES[name], has_mtp=False)
        num_layers = num_layers or (12 if name == "35b-a3b" else size.num_layers)
        if num_layers % 4:
            raise SystemExit("--layers must be a multiple of 4.")
        return cls(name, replace(size, num_layers=num_layers))

    @property
    def title(self) -> str:
        whole = ALL_SIZES[self.name].num_layers
        cut = "" if self.size.num_layers == whole else f", {self.size.num_layers} of {whole} layers"
        return f"Shape of {self.name.upper()}{cut}, random weights"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.size.num_layers}-layers"


def choose(options: argparse.Namespace, shape: Shape, default: Sequence[str] = NAMES) -> list[str]:
    """The engines that take part, those of --engines or `default`. Those that cannot are named on stderr."""
    names = options.engines.split(",") if options.engines else list(default)
    if unknown := [name for name in names if name not in NAMES]:
        raise SystemExit(f"--engines: {unknown[0]} is none of {', '.join(NAMES)}.")
    if any(name in HEAD_OF for name in names) and not _has_llama_cpp(options.llama_python):
        say(f"llama.cpp takes no part: {options.llama_python} has no llama_cpp (--llama-python PATH)")
        names = [name for name in names if name not in HEAD_OF]
    if "transformers" in names:
        reason = ""
        if importlib.util.find_spec("transformers") is None:
            reason = "it is not installed"
        elif not options.engines and _bfloat16_bytes(shape.size) > MAX_TRANSFORMERS:
            reason = "the checkpoint would be large; --engines asks for it"
        if reason:
            say(f"transformers takes no part: {reason}")
            names.remove("transformers")
    return names


def contender(name: str, shape: Shape, job: Job, options: argparse.Namespace) -> Contender:
    """A row of the table; its model is written into the folder of --work unless it is there."""
    size, title, work = shape.size, TITLES[name], options.work
    num_context = (job.prompts[-1] if job.prompts else 0) + job.num_tokens // 2
    job = replace(job, vocab_size=size.vocab_size)
    if name in RECIPE_OF:
        recipe = RECIPES[RECIPE_OF[name]]
        folder = _once(
            work / f"{shape.stem}-{RECIPE_OF[name]}-{layout_hash(size, recipe)}",
            lambda target: write_packed(size, target, recipe),
        )
        return Contender(
            title, "qwen", sys.executable, replace(job, model=str(folder)), _packed_facts(folder, num_context)
        )
    if name in HEAD_OF:
        head = HEAD_OF[name]
        path = _once(work / f"{shape.stem}-head-{head}.gguf", lambda target: write_gguf(size, target, head))
        return Contender(
            title,
            "llama",
            options.llama_python,
            replace(job, model=str(path)),
            _gguf_facts(size, head, num_context),
        )
    folder = _once(work / f"{shape.stem}-bf16", lambda target: write_checkpoint(size, target))
    facts = {"head": "bf16", "bits_per_weight": 16.0, "bytes_per_token": None}
    return Contender(title, "transformers", sys.executable, replace(job, model=str(folder)), facts)


def _has_llama_cpp(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode == 0
    except OSError:  # no such interpreter
        return False


def weight_files(model: Path) -> tuple[Path, ...]:
    """All files of a model."""
    return tuple(sorted(path for path in model.iterdir() if path.is_file())) if model.is_dir() else (model,)


def _once(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, written by `write` under another name first: what is there is whole."""
    if not target.exists():
        say(f"writing {target}")
        unfinished = target.with_name(f"unfinished-{target.name}")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        unfinished.rename(target)
    return target


def _packed_facts(folder: Path, num_context: int) -> dict[str, Any]:
    """Of the text model: a peer's file holds no tower."""
    manifest = open_manifest(folder)
    config = packed_config(folder, manifest)
    text = [tensor for name, tensor in manifest.tensors.items() if not name.startswith("visual.")]
    layers = manifest.experts.values()
    num_bytes = sum(t.size_bytes for t in text) + sum(layer.count * layer.stride for layer in layers)
    num_parameters = sum(prod(t.shape) for t in text) + sum(
        layer.count * prod(part.shape) for layer in layers for part in layer.parts.values()
    )
    head = "language_model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return {
        "head": manifest.tensors[head].format,
        "bits_per_weight": 8 * num_bytes / num_parameters,
        "bytes_per_token": decode_bytes(manifest, config, num_context, "bfloat16"),
    }


def _gguf_facts(size: Size, head_type: str, num_context: int) -> dict[str, Any]:
    """Bytes as `decode_bytes` counts them: the experts in use, the head, the states; keys in 16 bits."""
    found = gguf_tensors(size, head_type)
    total = 0
    for tensor in found:
        if tensor.name == "token_embd.weight" and not size.is_tied:
            continue
        is_expert = tensor.name.endswith("_exps.weight")
        total += (
            tensor.size_bytes * size.num_experts_per_tok // size.num_experts
            if is_expert
            else tensor.size_bytes
        )
    text = ModelConfig.from_dict(config_json(size), "config.json").text
    return {
        "head": head_type,
        "bits_per_weight": 8 * sum(t.size_bytes for t in found) / sum(prod(t.shape) for t in found),
        "bytes_per_token": total + state_bytes(text, num_context, "bfloat16"),
    }


def _bfloat16_bytes(size: Size) -> int:
    return 2 * sum(prod(shape) for _, shape in tensors(size))
