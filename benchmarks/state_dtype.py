"""What saved states would lose in bfloat16: `python benchmarks/state_dtype.py [MODEL]`.

A prompt is read, then an answer is written twice, each token the one that the exact state chooses: from that
state, and from one whose recurrent matrices were rounded where it was saved, once or again every few tokens,
as if the chat had gone on from disk so often. Keys, values and convolution inputs have 16 bits anyway.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.restore import document
from qwen35.engine.engine import Engine, prepare
from qwen35.engine.load import load_engine
from qwen35.engine.request import Request
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.processing.processor import ModelInput
from qwen35.state import LinearMemory, ModelState
from qwencli.folders import Folders
from qwencli.known_models import find_model
from qwencli.media.attach import Attacher


@dataclass(frozen=True, slots=True)
class Loss:
    """Of the steps after one prompt: divergences in nats (mean, greatest), and other first choices."""

    mean_kl: float
    max_kl: float
    changed: int
    steps: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="mini", help="as qwen ask -m takes it; default mini")
    parser.add_argument("--pictures", nargs="*", default=[], metavar="FILE", help="each a prompt of its own")
    parser.add_argument("--documents", type=int, default=4, help="of random words; default 4")
    parser.add_argument("--tokens", type=int, default=1000, help="of a document; default 1000")
    parser.add_argument("--steps", type=int, default=64, help="tokens that are written; default 64")
    parser.add_argument(
        "--every", type=int, default=8, help="tokens from one rounding to the next; default 8"
    )
    options = parser.parse_args()
    folder = find_model(options.model, Folders.locate(os.environ)).folder
    engine = load_engine(folder, device="cpu")
    prompts = [(f"{Path(file).name}, describe", ask_about(engine, file)) for file in options.pictures]
    for seed in range(options.documents):
        text = document(engine.processor, options.tokens, seed)
        message = Message("user", (TextPart(text), TextPart("\n\nWhat is this?")))
        prompts.append((f"document {seed + 1}", prepare(engine.processor, Request((message,)))))
    rows = []
    for name, prompt in prompts:
        state, logits = read(engine, prompt)
        for often, every in (("once", options.steps), (f"every {options.every} tokens", options.every)):
            loss = compare(engine, state, logits, options.steps, every)
            rows.append(
                (
                    f"{name}: rounded {often}",
                    *(f"{kl:.1e}" for kl in (loss.mean_kl, loss.max_kl)),
                    f"{loss.changed} of {loss.steps}",
                )
            )
            harness.say(f"{name}, {often}: {loss}")
    print(harness.markdown(("prompt", "KL, mean", "greatest", "other first choice"), rows))
    memories = [layer for layer in state.layers if isinstance(layer, LinearMemory)]
    exact = sum(memory.size_bytes for memory in memories)
    rounded = exact - sum(memory.state.nbytes for memory in memories) // 2
    print(f"The fixed part of a saved state: {exact / 1e6:.2f} MB, in bfloat16 {rounded / 1e6:.2f} MB.")


def ask_about(engine: Engine, file: str) -> ModelInput:
    (attachment,) = Attacher(None, harness.say, lambda *_: None).attach_all([file])
    assert isinstance(attachment.parts[0], ImagePart)
    message = Message("user", (*attachment.parts, TextPart("describe")))
    return prepare(engine.processor, Request((message,)))


def read(engine: Engine, prompt: ModelInput) -> tuple[ModelState, np.ndarray]:
    """The state after a prompt, and the logits of the first token of its answer."""
    features = None
    if prompt.pixel_values is not None:
        features = engine.backend.encode_pictures(prompt.pixel_values, [span.grid for span in prompt.media])
    state = engine.backend.new_state()
    state.mrope_delta = prompt.mrope_delta
    return state, engine.backend.prefill(state, prompt.ids, prompt.position_ids, features)


def compare(engine: Engine, state: ModelState, logits: np.ndarray, steps: int, every: int) -> Loss:
    """Write `steps` tokens from `state`, and from it in bfloat16, rounded again after `every` tokens."""
    exact, rounded = state.fork(), state.fork()
    divergences, changed = [], 0
    for step in range(steps):
        if step % every == 0:
            round_matrices(rounded)
        token = np.array([int(np.argmax(logits))])
        logits, other = (engine.backend.decode([one], token)[0] for one in (exact, rounded))
        divergences.append(divergence(logits, other))
        changed += int(np.argmax(logits) != np.argmax(other))
    return Loss(float(np.mean(divergences)), max(divergences), changed, steps)


def round_matrices(state: ModelState) -> None:
    """To bfloat16 and back, to nearest, ties to even."""
    for index, layer in enumerate(state.layers):
        if isinstance(layer, LinearMemory):
            state.layers[index] = LinearMemory(layer.conv.copy(), to_bfloat16(layer.state))


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def divergence(logits: np.ndarray, other: np.ndarray) -> float:
    """KL(p of `logits`, p of `other`) in nats."""
    p, q = (log_softmax(x.astype(np.float64)) for x in (logits, other))
    return float(np.sum(np.exp(p) * (p - q)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


if __name__ == "__main__":
    main()
