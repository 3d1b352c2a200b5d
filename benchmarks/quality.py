"""What rounding the weights costs, from which the default recipe follows: `python benchmarks/quality.py`.

On the built-in model `mini` (or a checkpoint of its kind, `--mini FOLDER`): how often the answers to held-out
questions are right, and how far next tokens' distributions move from those of the unpacked weights, with the
model packed as `qwen models pack` does it and with one kind of its matrices rounded alone. Then each kind of
layer's error on a random checkpoint of a true shape. Distributions are compared along the right answers, the
answer's tokens so far given; an answer is right where the likeliest token is the right one all along.
"""

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import command_line, machine_line, markdown, say
from benchmarks.layer_errors import (
    SHAPES,
    Formats,
    bits_per_weight,
    compare_layers,
    default_recipe,
    every_matrix,
    matrices,
    rounded,
)
from mini.evaluate_tasks import STILL_TASKS, held_out
from mini.labels import Sample
from mini.prompt import IMAGE, render
from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import load as load_library
from qwen35.backends.native.quantiser import best_quantiser
from qwen35.config import ModelConfig
from qwen35.cores import num_cores
from qwen35.network.model import Qwen35
from qwen35.processing.image import Patches
from qwen35.processing.positions import mrope_positions
from qwen35.processing.processor import Processor
from qwen35.weights.load import load_model
from qwen35.weights.pack import pack
from qwen35.weights.packed import PackedModel
from qwen35.weights.recipe import QUANTS
from qwen35.weights.slabs import Quantiser
from qwen35.weights.tiles import F32, TILE_FORMATS
from qwencli.machine import Machine

MINI = Path(__file__).resolve().parents[1] / "model" / "qwen35" / "builtin" / "mini-bf16"
ENOUGH = 2000  # tokens compared, for a share to be told in tenths of a per cent

# Parameters by our names, as `weights.recipe` tells them apart. The first that fits counts.
KINDS = {
    "router": ("*.mlp.gate.weight", "*.mlp.shared_expert_gate.weight"),
    "decay and write strength": ("*.linear_attn.in_proj_[ab].weight",),
    "linear attention": ("*.linear_attn.in_proj_*.weight", "*.linear_attn.out_proj.weight"),
    "full attention": ("language_model.*.self_attn.?_proj.weight",),
    "experts and MLPs": ("language_model.*.mlp.*",),
    "embedding and head": ("language_model.embed_tokens.weight", "lm_head.weight"),
    "vision": ("visual.*",),
}

# What mini is shipped to know: of print it makes something up, of which many things are equally likely.
LEARNT = ("scenes", "outside", "talk")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its right answer. `ids` are the prompt and the answer but for its last token."""

    task: str
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]  # (3, T)
    delta: int
    answer: NDArray[np.int64]  # (A,), its end included
    picture: Patches | None

    @property
    def num_prompt(self) -> int:
        return len(self.ids) + 1 - len(self.answer)


Run = Callable[[Case], Floats]  # to logits (A, V), one row for each token of the answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mini", type=Path, default=MINI, metavar="FOLDER", help="unpacked; default: the built-in"
    )
    parser.add_argument("--samples", type=int, default=50, help="held-out questions of a task; default 50")
    parser.add_argument("--shape", choices=SHAPES, default="0.8b", help="of the random model; default 0.8b")
    parser.add_argument("--layers", type=int, default=4, help="of the random model, by 4; default 4")
    parser.add_argument("--threads", type=int, default=num_cores(), help="default: one for each core")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quantiser, reason = best_quantiser()
    if reason:
        say(f"no native kernels ({reason}): packed models run on torch")

    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        mini = Mini(options.mini, Path(name), options.samples, options.threads, quantiser)
        by_recipe, arithmetic = compare_recipes(mini)
        by_kind = compare_kinds(mini)
        by_layer = compare_layers(options.shape, options.layers, Path(name), quantiser)
    where = (
        f"{options.mini.resolve().name}, {len(mini.cases)} questions, {mini.num_tokens:,} tokens of answers"
    )
    print(f"Recipes. {where}; against its weights unrounded in float32.\n\n{by_recipe}")
    print(f"Arithmetic. The same rounded weights, on the native kernels and on torch.\n\n{arithmetic}")
    print(f"Kinds. One kind's matrices rounded, all else as it is; on torch in float32.\n\n{by_kind}")
    print(
        f"Layers. Random weights of the {options.shape} shape, {options.layers} layers: relative error (rms) "
        f"of weights and of what a layer makes of the same inputs.\n\n{by_layer}"
    )
    print(f"`{command_line()}`\n\n{machine_line(Machine.inspect())}")
    if mini.num_tokens < ENOUGH:
        say(f"warning: fewer than {ENOUGH:,} tokens were compared; ask for more --samples")


class Mini:
    """The model in `folder`, its questions, and the distributions that all others are compared with."""

    def __init__(
        self, folder: Path, work: Path, num_samples: int, num_threads: int, quantiser: Quantiser
    ) -> None:
        self.folder, self.work, self.num_threads, self.quantiser = folder, work, num_threads, quantiser
        self.config = ModelConfig.from_folder(folder)
        say("drawing the questions")
        processor = Processor.from_folder(folder)
        self.cases = [
            make_case(task, sample, processor)
            for task in STILL_TASKS
            for sample in held_out(task, num_samples)
        ]
        self.num_tokens = sum(len(case.answer) for case in self.cases)
        self.model = self.load(folder)
        self.expected = self.run("unrounded", on_torch(self.model))

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> Qwen35:
        return load_model(folder, self.config, device="cpu", dtype=dtype)

    def run(self, label: str, run: Run) -> list[Floats]:
        say(f"{len(self.cases)} questions: {label}")
        return [log_softmax(run(case)) for case in self.cases]


def make_case(task: str, sample: Sample, processor: Processor) -> Case:
    """The prompt as mini was trained on it, and the answer."""
    prefix, rest, target = render(sample.questions[0], IMAGE if sample.pixels is not None else "")
    grids, picture = [], None
    if sample.pixels is not None:
        assert processor.image is not None
        picture = processor.image.process(sample.pixels)
        grids = [picture.grid]
        num_placeholders = math.prod(picture.grid) // processor.image.vision.spatial_merge_size**2
        prefix = prefix.replace("<|image_pad|>", "<|image_pad|>" * num_placeholders)
    answer = np.array(processor.tokenizer.encode(target), np.int64)
    prompt = np.array(processor.tokenizer.encode(prefix + rest), np.int64)
    ids = np.concatenate([prompt, answer[:-1]])
    positions, delta = mrope_positions(ids, processor.config, grids)
    return Case(task, ids, positions, delta, answer, picture)


def on_torch(model: Qwen35) -> Run:
    """All of prompt and answer in one pass."""

    def run(case: Case) -> Floats:
        features = None
        if case.picture is not None:
            assert model.visual is not None
            features = model.visual(torch.from_numpy(case.picture.values), [case.picture.grid])
        ids, positions = torch.from_numpy(case.ids)[None], torch.from_numpy(case.positions)[:, None]
        hidden, _ = model(ids, positions, features)
        return model.logits(hidden[0, case.num_prompt - 1 :]).float().numpy()

    return run


def on_kernels(backend: NativeBackend) -> Run:
    """As the program runs it: the prompt, then token by token."""

    def run(case: Case) -> Floats:
        features = None
        if case.picture is not None:
            features = backend.encode_pictures(case.picture.values, [case.picture.grid])
        state = backend.new_state()
        state.mrope_delta = case.delta
        prompt = slice(case.num_prompt)
        rows = [backend.prefill(state, case.ids[prompt], case.positions[:, prompt], features)]
        rows += [backend.decode([state], case.answer[i : i + 1])[0] for i in range(len(case.answer) - 1)]
        return np.stack(rows)

    return run


def log_softmax(logits: Floats) -> Floats:
    return torch.from_numpy(logits).log_softmax(-1).numpy()


def compare_recipes(mini: Mini) -> tuple[str, str]:
    """Tables of what packing costs, and of the part of it that is the kernels' arithmetic."""
    library, _ = load_library()
    rows = [recipe_row(mini, "unrounded", "torch, float32", "16", mini.expected)]
    label = "unrounded, torch in bfloat16"
    found = mini.run(label, on_torch(mini.load(mini.folder, torch.bfloat16)))
    rows.append(recipe_row(mini, "unrounded", "torch, bfloat16", "16", found))
    arithmetic = []
    for quant in reversed(QUANTS):
        packed = pack(mini.folder, mini.work / quant, quant, quantiser=mini.quantiser)
        bits = f"{packed.manifest.bits_per_weight:.2f}"
        label = "q4: the default recipe" if quant == "q4" else quant
        exact = mini.run(f"{label}, torch", on_torch(mini.load(packed.folder)))
        if library is None:
            rows.append(recipe_row(mini, label, "torch, float32", bits, exact))
            continue
        with PackedModel.open(packed.folder) as weights:
            backend = NativeBackend(library, weights, num_threads=mini.num_threads)
            found = mini.run(f"{label}, native kernels", on_kernels(backend))
        rows.append(recipe_row(mini, label, "native kernels", bits, found))
        arithmetic.append([label, f"{mini.num_tokens:,}", *distance(exact, found)])
        known = [number for number, case in enumerate(mini.cases) if case.task in LEARNT]
        num_tokens = sum(len(mini.cases[number].answer) for number in known)
        exact, found = ([part[number] for number in known] for part in (exact, found))
        label = f"{label}, of {', '.join(LEARNT)}"
        arithmetic.append([label, f"{num_tokens:,}", *distance(exact, found)])
    with rounded(mini.model, every_matrix("q4"), mini.quantiser):
        found = mini.run("q4 in every matrix", on_torch(mini.model))
    bits = f"{bits_per_weight(mini.model, every_matrix('q4')):.2f}"
    rows.append(recipe_row(mini, "q4 in every matrix", "torch, float32", bits, found))
    header = ("weights", "run by", "bits/weight", *STILL_TASKS, "all", "KL", "same token")
    return markdown(header, rows), markdown(("weights", "tokens", "KL", "same token"), arithmetic)


def recipe_row(mini: Mini, label: str, runner: str, bits: str, found: list[Floats]) -> list[str]:
    asked, right = Counter[str](), Counter[str]()
    for case, logits in zip(mini.cases, found, strict=True):
        for name in (case.task, "all"):
            asked[name] += 1
            right[name] += bool((logits.argmax(-1) == case.answer).all())
    shares = [f"{right[name] / asked[name]:.1%}" for name in (*STILL_TASKS, "all")]
    return [label, runner, bits, *shares, *distance(mini.expected, found)]


def distance(expected: Sequence[Floats], found: Sequence[Floats]) -> tuple[str, str]:
    """The mean KL divergence in nats, and how often the likeliest token is the same; both as text."""
    p, q = (np.concatenate(rows).astype(np.float64) for rows in (expected, found))
    divergence = (np.exp(p) * (p - q)).sum(-1).mean()
    return f"{divergence:.5f}", f"{(p.argmax(-1) == q.argmax(-1)).mean():.2%}"


def compare_kinds(mini: Mini) -> str:
    """A table of what each kind of matrices costs when it alone is rounded."""
    rows = []
    for kind in KINDS:
        own = {name: p for name, p in matrices(mini.model) if kind_of(name) == kind}
        if not own:
            continue
        cells: list[str] = []
        for format_name in TILE_FORMATS:
            with rounded(mini.model, only(kind, format_name), mini.quantiser):
                found = mini.run(f"{kind} in {format_name}", on_torch(mini.model))
            cells += distance(mini.expected, found)
        total = sum(p.numel() for _, p in matrices(mini.model))
        share = sum(p.numel() for p in own.values()) / total
        chosen = {default_recipe(name, tuple(p.shape)) for name, p in own.items()} - {F32} or {F32}
        rows.append([kind, f"{share:.1%}", *cells, "/".join(sorted(chosen))])
    header = ("kind", "of all weights", "KL q4", "same token q4", "KL q8", "same token q8", "default")
    return markdown(header, rows)


def kind_of(name: str) -> str | None:
    """None for what is kept in float32 because no kernel multiplies it: convolutions, positions."""
    if name.endswith(("conv1d.weight", "pos_embed.weight")):
        return None
    return next(kind for kind, patterns in KINDS.items() if any(fnmatchcase(name, p) for p in patterns))


def only(kind: str, format_name: str) -> Formats:
    return lambda name, _: format_name if kind_of(name) == kind else F32


if __name__ == "__main__":
    main()
