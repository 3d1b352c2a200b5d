"""mini on held-out data: the network answers, exact match counts.

It uses the training side's own tokenizer and prompts, so that it runs wherever training does; the
tests ask the same questions through `qwen ask`. `python -m mini.evaluate CHECKPOINT` measures what a
folder holds.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mini.architecture import preprocessor_json, video_processor
from mini.batches import tokenizer_config
from mini.evaluate_tasks import TASKS, fields_right, held_out, is_declined, is_right
from mini.labels import Question, Sample
from mini.prompt import IMAGE, render, write_clip
from mini.tokenizer import MiniTokenizer
from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.processing.image import ImageProcessor
from qwen35.processing.positions import mrope_positions

MAX_TOKENS = 400  # a table of six rows and four columns as JSON


class Reader:
    """Asks a network by greedy decoding."""

    def __init__(self, model: Qwen35) -> None:
        self.backend = PlainBackend(model)
        self.tokenizer = MiniTokenizer.load()
        self.config = tokenizer_config(self.tokenizer)
        assert self.config.vision is not None
        self.images = ImageProcessor(preprocessor_json(), self.config.vision, "mini")
        self.videos = video_processor()

    def answer(self, question: Question, sample: Sample) -> str:
        features, grids, seen = None, [], ""
        if sample.clip is not None:
            plan = sample.clip.plan
            patches = np.concatenate([*self.videos.patches(sample.clip.clip, plan)])
            grids, seen = [self.videos.grid(plan)] * plan.num_pairs, write_clip(plan)
        elif sample.pixels is not None:
            picture = self.images.process(sample.pixels)
            patches, grids, seen = picture.values, [picture.grid], IMAGE
        prefix, rest, _ = render(question, seen)
        if grids:
            features = self.backend.encode_pictures(patches, grids)
            for pad in ("<|image_pad|>", "<|video_pad|>"):
                prefix = prefix.replace(pad, pad * (len(features) // len(grids)))
        ids = np.array(self.tokenizer.encode(prefix + rest))
        positions, delta = mrope_positions(ids, self.config, grids)
        state = self.backend.new_state()
        state.mrope_delta = delta
        logits = self.backend.prefill(state, ids, positions, features)
        answer: list[int] = []
        while len(answer) < MAX_TOKENS:
            token = int(logits.argmax())
            if token == self.tokenizer.id("<|im_end|>"):
                break
            answer.append(token)
            logits = self.backend.decode([state], np.array([token]))[0]
        return self.tokenizer.decode(answer)


Figures = dict[str, dict[str, float | int]]


def evaluate(model: Qwen35, num_samples: int, tasks: Sequence[str] = TASKS) -> Figures:
    """By task: how many were asked, the shares right as a whole and by fields, and that declined.

    The outside's parts (photographs, textures, questions) are counted on their own as well.
    """
    reader = Reader(model)
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    declined: Counter[str] = Counter()
    fields: defaultdict[str, float] = defaultdict(float)
    for task in tasks:
        for sample in held_out(task, num_samples):
            question = sample.questions[0]
            answer = reader.answer(question, sample)
            names = {task, question.task} if task == "outside" else {task, f"{task}: {question.task}"}
            for name in names:
                asked[name] += 1
                right[name] += is_right(question, answer)
                declined[name] += is_declined(answer)
                fields[name] += fields_right(question, answer)
    return {
        name: {
            "asked": asked[name],
            "right": round(right[name] / asked[name], 4),
            "fields": round(fields[name] / asked[name], 4),
            "declined": round(declined[name] / asked[name], 4),
        }
        for name in sorted(asked)
    }


def table(figures: Mapping[str, Mapping[str, float | int]]) -> str:
    return "\n".join(
        f"{task:30} asked {row['asked']:4}  right {row['right']:.1%}  fields {row['fields']:.1%}  "
        f"declined {row['declined']:.1%}"
        for task, row in figures.items()
    )


def main() -> None:
    from qwen35.weights.load import load_model  # needs more than the machines that train may have

    parser = argparse.ArgumentParser(prog="python -m mini.evaluate", description="Measure a checkpoint.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=200, help="held-out samples of each task")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    args = parser.parse_args()
    model = load_model(args.folder, ModelConfig.from_folder(args.folder), device="cpu")
    print(table(evaluate(model, args.samples, args.tasks)))


if __name__ == "__main__":
    main()
