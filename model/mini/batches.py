"""Training batches: pictures of one size, or clips of one shot, several questions each, as tensors.

A batch follows from its number and the stage's progress alone, so that an interrupted run
goes on with data it has not seen. Worker processes may make them ahead.
"""

import multiprocessing
import random
from collections.abc import Iterator
from ctypes import c_double
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from mini.architecture import MERGE_SIZE, TOKEN_PIXELS, model_config, preprocessor_json, video_processor
from mini.cells import label_cells, number_of
from mini.clip_labels import ClipLabels
from mini.clips import draw_shot
from mini.curriculum import Curriculum
from mini.document_labels import find_shapes, label_marks, label_sources
from mini.documents import draw_grid
from mini.labels import ASKED, Question, Sample
from mini.outside_questions import decline_print
from mini.prompt import IMAGE, render, write_clip
from mini.sample import SYSTEM_MESSAGES, make_sample
from mini.scenes import make_detail
from mini.tokenizer import MiniTokenizer
from qwen35.config import ModelConfig
from qwen35.processing.image import ImageProcessor, TokenBounds
from qwen35.processing.positions import mrope_positions
from qwen35.processing.video_plan import VideoPlan

IGNORE = -100
NUM_CLIP_QUESTIONS = 5
CLIPS_FOR_ONE = 2  # as with pages: what is new where a pair ends is learnt from many pairs
# Their answers are long: rather more pages than more questions about each.
DOCUMENTS_FOR_ONE, NUM_DOCUMENT_QUESTIONS = 2, 1
LONG_CLIPS = 0.4  # more of them than are asked for when the model is measured
ANY_SIZE = TokenBounds(1, 1 << 20)  # details are smaller than a picture may be


@dataclass(slots=True)
class Rows:
    """Questions of about one length with their answers, R of them, right-padded to T tokens."""

    ids: torch.Tensor  # (R, T), what follows the picture
    positions: torch.Tensor  # (3, R, T)
    targets: torch.Tensor  # (R, T): the token after each, IGNORE outside the answers
    pictures: torch.Tensor  # (R,): which of the batch's pictures each is about
    asked: torch.Tensor  # (R, 3): the kind, colour and place that it names, numbered as in `cells.py`
    # Of clips: which tokens (R, 2, S) of the prefix tell an answer's two parts, and which targets (R, T) are
    # of the second.
    looks: torch.Tensor | None = None
    is_later: torch.Tensor | None = None
    # Where each target is read from: its picture token (or NOWHERE), and that one's line, field and offset.
    sources: torch.Tensor | None = None  # (R, T, 4)

    def to(self, device: torch.device) -> "Rows":
        return Rows(*_moved(self, device))


@dataclass(slots=True)
class Pictures:
    """B pictures of one size, the prompt up to their end, and the labels of what was drawn on them.

    Clips are as many pictures as they have pairs: `grid` says how many in its first place.
    """

    patches: torch.Tensor | None  # (B * P, values); None where features are made from the labels
    grid: tuple[int, int, int]
    prefix: torch.Tensor  # (B, T)
    positions: torch.Tensor  # (3, B, T)
    labels: torch.Tensor  # (B * M, columns), see `cells.py`
    is_sure: torch.Tensor  # (B * M, columns) bool
    noticed: torch.Tensor | None = None  # (B, S, columns), of clips: see `clip_labels.py`
    marks: torch.Tensor | None = None  # (B * M, 1 + columns), of documents: characters and `marks.MARKED`

    def to(self, device: torch.device) -> "Pictures":
        return Pictures(*_moved(self, device))


def _moved(batch: Rows | Pictures, device: torch.device) -> Iterator[Any]:
    values = (getattr(batch, name) for name in batch.__slots__)
    return (v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for v in values)


@dataclass(slots=True)
class Batch:
    """Pictures and the questions about them; small talk has no pictures."""

    pictures: Pictures | None
    rows: list[Rows]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.pictures and self.pictures.to(device), [rows.to(device) for rows in self.rows])


class BatchMaker:
    def __init__(self) -> None:
        self.tokenizer = MiniTokenizer.load()
        self.config = tokenizer_config(self.tokenizer)
        assert self.config.vision is not None
        self.images = ImageProcessor(preprocessor_json(), self.config.vision, "mini")
        self.videos = video_processor()

    def make(self, index: int, progress: float, curriculum: Curriculum, split: str = "train") -> Batch:
        rng = random.Random(f"{curriculum.stage}/{index}")
        if curriculum.stage == "eyes" and rng.random() < curriculum.details(progress):
            return self._details(rng, curriculum, progress)
        if curriculum.stage == "together" and rng.random() < curriculum.clips:
            return self._clips(rng, curriculum, index, split)
        if curriculum.stage == "together" and rng.random() < curriculum.documents:
            return self._documents(rng, curriculum, index, split)
        worlds = curriculum.worlds(progress)
        system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.2 else None
        talks = rng.random() < worlds.pop("talk")
        if talks:
            return self.collate(
                [make_sample("talk", curriculum.seed(index), split, num_questions=24)], None, system
            )
        drawn = curriculum.draw_size(rng, progress)
        grid = self._grid(drawn)
        samples = []
        for picture in range(curriculum.num_pictures(grid)):
            world = rng.choices([*worlds], [*worlds.values()])[0]
            difficulty = curriculum.difficulty(world, progress)
            if world != "scene":
                difficulty *= rng.uniform(0.4, 1.0) ** 0.5
            count = curriculum.num_questions(world, progress)
            size = self._size_near(drawn, rng)
            seed = curriculum.seed(index * 1000 + picture)
            sample = make_sample(world, seed, split, size, count, difficulty)
            if not curriculum.reads:
                decline_print(sample, rng)
            samples.append(sample)
        return self.collate(samples, grid, system, with_patches=curriculum.stage != "language")

    def _clips(self, rng: random.Random, curriculum: Curriculum, index: int, split: str) -> Batch:
        """Clips of one shot: the same frames are shown of all, at the same times."""
        shot = draw_shot(rng, long_share=LONG_CLIPS)
        system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.2 else None
        first = make_sample(
            "clip", curriculum.seed(index * 1000), split, num_questions=NUM_CLIP_QUESTIONS, shot=shot
        )
        assert first.clip is not None
        _, height, width = self._clip_grid(first.clip.plan)
        count = CLIPS_FOR_ONE * curriculum.num_pictures((first.clip.plan.num_pairs * height, width))
        seeds = [curriculum.seed(index * 1000 + clip) for clip in range(1, count)]
        others = [
            make_sample("clip", seed, split, num_questions=NUM_CLIP_QUESTIONS, shot=shot) for seed in seeds
        ]
        return self.collate_clips([first, *others], system)

    def _documents(self, rng: random.Random, curriculum: Curriculum, index: int, split: str) -> Batch:
        grid = draw_grid(rng)
        size = grid[0] * TOKEN_PIXELS, grid[1] * TOKEN_PIXELS
        system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.2 else None
        count = DOCUMENTS_FOR_ONE * curriculum.num_pictures(grid)
        seeds = [curriculum.seed(index * 1000 + number) for number in range(count)]
        return self.collate(
            [make_sample("document", seed, split, size, NUM_DOCUMENT_QUESTIONS) for seed in seeds],
            grid,
            system,
        )

    def _clip_grid(self, plan: VideoPlan) -> tuple[int, int, int]:
        """(pairs, height, width) in tokens."""
        return plan.num_pairs, plan.size[0] // TOKEN_PIXELS, plan.size[1] // TOKEN_PIXELS

    def collate_clips(self, samples: list[Sample], system: str | None) -> Batch:
        """One batch of clips with one plan."""
        clips = [sample.clip for sample in samples if sample.clip is not None]
        plan = clips[0].plan
        assert all(clip.plan == plan for clip in clips)
        pairs, height, width = self._clip_grid(plan)
        for question in (q for sample in samples for q in sample.questions):
            question.system = system
        start = render(samples[0].questions[0], write_clip(plan))[0]
        ids = self.tokenizer.encode(start.replace("<|video_pad|>", "<|video_pad|>" * (height * width)))
        places = np.flatnonzero(np.array(ids) == self.tokenizer.id("<|video_pad|>")).reshape(pairs, -1)
        grid = pairs, height * MERGE_SIZE, width * MERGE_SIZE
        labels = [ClipLabels(clip, (height, width), places, len(ids)) for clip in clips]
        cells = [label.cells() for label in labels]
        patches = [patches for clip in clips for patches in self.videos.patches(clip.clip, plan)]
        positions, _ = mrope_positions(np.array(ids), self.config, [grid])
        pictures = Pictures(
            patches=torch.from_numpy(np.concatenate(patches)),
            grid=grid,
            prefix=torch.tensor(ids).repeat(len(clips), 1),
            positions=torch.from_numpy(positions)[:, None].repeat(1, len(clips), 1),
            labels=torch.from_numpy(np.concatenate([c.values for c in cells])),
            is_sure=torch.from_numpy(np.concatenate([c.is_sure for c in cells])),
            noticed=torch.from_numpy(np.stack([label.noticed() for label in labels])),
        )
        looks = [
            torch.from_numpy(label.looks(question))
            for label, sample in zip(labels, samples, strict=True)
            for question in sample.questions
        ]
        return Batch(pictures, self._rows(samples, write_clip(plan), int(positions.max()) + 1, looks))

    def _details(self, rng: random.Random, curriculum: Curriculum, progress: float) -> Batch:
        """Small pictures: parts of scenes, or a printed line."""
        if rng.random() >= curriculum.printed_details(progress):
            cells = rng.choice([(1, 1), (1, 1), (1, 2), (2, 1), (2, 2)])
            side = rng.choice([2, 2, 3, 3, 4, 5, 6])
            grid = max(2, side * cells[0]), max(2, side * cells[1])
            size = grid[0] * TOKEN_PIXELS, grid[1] * TOKEN_PIXELS
            samples = [make_detail(size, cells, rng) for _ in range(curriculum.num_pictures(grid))]
            return Batch(self._pictures(samples, grid, is_detail=True), [])
        grid = rng.choice([2, 2, 3, 4]), rng.randint(3, 4 + round(8 * min(1.0, 2 * progress)))
        size = grid[0] * TOKEN_PIXELS, grid[1] * TOKEN_PIXELS
        difficulty = curriculum.difficulty("text", progress) * rng.uniform(0.4, 1.0) ** 0.5
        seeds = [rng.getrandbits(60) for _ in range(curriculum.num_pictures(grid))]
        samples = [make_sample("text", seed, "train", size, 1, difficulty) for seed in seeds]
        return Batch(self._pictures(samples, grid, is_detail=True), [])

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in picture tokens of a picture of `size` (height, width) in pixels."""
        height, width = self.images.plan(*size)
        return height // TOKEN_PIXELS, width // TOKEN_PIXELS

    def _size_near(self, size: tuple[int, int], rng: random.Random) -> tuple[int, int]:
        """Another size that the official resize takes to the same grid, or the same size."""
        near = size[0] + rng.randint(-7, 7), size[1] + rng.randint(-7, 7)
        return near if self._grid(near) == self._grid(size) else size

    def collate(
        self,
        samples: list[Sample],
        grid: tuple[int, int] | None,
        system: str | None,
        with_patches: bool = True,
    ) -> Batch:
        """One batch; `grid` (height, width) in picture tokens is that of every picture."""
        for question in (q for sample in samples for q in sample.questions):
            question.system = system
        pictures, next_position = None, 0
        if grid is not None:
            pictures = self._pictures(samples, grid, with_patches=with_patches)
            for sample in samples:
                find_shapes(sample, grid)
            next_position = int(pictures.positions.max()) + 1
        return Batch(pictures, self._rows(samples, IMAGE if grid is not None else "", next_position))

    def _rows(
        self,
        samples: list[Sample],
        seen: str,
        next_position: int,
        looks: list[torch.Tensor] | None = None,
    ) -> list[Rows]:
        """The questions of all samples, in two groups of about one length; `looks` of each, in that order."""
        rows = [
            (*self._row(question, seen), index, [*map(number_of, ASKED, question.asked)])
            for index, sample in enumerate(samples)
            for question in sample.questions
        ]
        questions = [question for sample in samples for question in sample.questions]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
        split = best_split([len(rows[index][0]) for index in order])
        groups = []
        for part in (order[:split], order[split:]):
            if part:
                group = self._pad([rows[index] for index in part], next_position)
                if any(question.sources for question in questions):
                    asked = [questions[index] for index in part]
                    group.sources = label_sources(asked, group.targets != IGNORE, self.tokenizer)
                if looks is not None:
                    group.looks = torch.stack([looks[index] for index in part])
                    later = torch.tensor([rows[index][2] for index in part])
                    group.is_later = torch.arange(group.ids.shape[1]) >= later[:, None] - 1
                groups.append(group)
        return groups

    def _pictures(
        self,
        samples: list[Sample],
        grid: tuple[int, int],
        *,
        is_detail: bool = False,
        with_patches: bool = True,
    ) -> Pictures:
        """`is_detail`: smaller than a picture may be, and no place in it is one of a whole picture's."""
        image_grid = (1, grid[0] * MERGE_SIZE, grid[1] * MERGE_SIZE)
        patches, cells = [], []
        marks = [label_marks(sample.marks, self.tokenizer) for sample in samples if sample.marks is not None]
        for sample in samples:
            cells.append(label_cells(sample, grid, has_places=not is_detail))
            if with_patches:
                assert sample.pixels is not None
                picture = self.images.process(sample.pixels, ANY_SIZE if is_detail else None)
                assert picture.grid == image_grid, (picture.grid, image_grid)
                patches.append(picture.values)
        start = render(samples[0].questions[0], IMAGE)[0] if samples[0].questions else "<|image_pad|>"
        ids = self.tokenizer.encode(start.replace("<|image_pad|>", "<|image_pad|>" * (grid[0] * grid[1])))
        positions, _ = mrope_positions(np.array(ids), self.config, [image_grid])
        return Pictures(
            patches=torch.from_numpy(np.concatenate(patches)) if with_patches else None,
            grid=image_grid,
            prefix=torch.tensor(ids).repeat(len(samples), 1),
            positions=torch.from_numpy(positions)[:, None].repeat(1, len(samples), 1),
            labels=torch.from_numpy(np.concatenate([c.values for c in cells])),
            is_sure=torch.from_numpy(np.concatenate([c.is_sure for c in cells])),
            marks=torch.from_numpy(np.concatenate(marks)) if marks else None,
        )

    def _pad(self, rows: list[tuple[list[int], int, int, int, list[int]]], next_position: int) -> Rows:
        """Rows of (ids and two numbers of `_row`, picture, what is asked) as tensors."""
        length = max(len(ids) for ids, *_ in rows)
        padded = torch.full((len(rows), length), self.tokenizer.id("<|endoftext|>"))
        targets = torch.full((len(rows), length), IGNORE)
        for index, (ids, num_prompt, *_) in enumerate(rows):
            padded[index, : len(ids)] = torch.tensor(ids)
            targets[index, num_prompt - 1 : len(ids) - 1] = torch.tensor(ids[num_prompt:])
        positions = (next_position + torch.arange(length)).repeat(3, len(rows), 1)
        pictures = torch.tensor([picture for *_, picture, _ in rows])
        return Rows(padded, positions, targets, pictures, torch.tensor([asked for *_, asked in rows]))

    def _row(self, question: Question, seen: str) -> tuple[list[int], int, int]:
        """Ids after the picture or clip, how many of them are the prompt's, and how many come before the
        second part of the answer."""
        _, rest, target = render(question, seen)
        prompt, ids = self.tokenizer.encode(rest), self.tokenizer.encode(target)
        start = target.rindex(question.answer) + question.second_part
        first = self.tokenizer.encode(target[:start]) if question.second_part else ids
        return prompt + ids, len(prompt), len(prompt) + len(first)


def tokenizer_config(tokenizer: MiniTokenizer) -> ModelConfig:
    """mini's configuration for this tokenizer; the vocabulary padded to a multiple of 64 rows."""
    return model_config(tokenizer.ids, -(-len(tokenizer) // 64) * 64)


def best_split(lengths: list[int]) -> int:
    """Where to part rows, sorted by length, in two: short and long, so that both need little padding.

    More parts would need less of it, but each costs a pass of small products.
    """
    return min(
        range(1, len(lengths) + 1),
        key=lambda split: lengths[split - 1] * split + lengths[-1] * (len(lengths) - split),
    )


class Batches(IterableDataset):
    """Every `stride`-th batch from `first` on."""

    def __init__(self, first: int, stride: int, curriculum: Curriculum, progress: object) -> None:
        self.first, self.stride, self.curriculum, self.progress = first, stride, curriculum, progress

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        worker, count = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        maker = BatchMaker()
        index = self.first + worker * self.stride
        while True:
            yield maker.make(index, self.progress.value, self.curriculum)  # type: ignore[attr-defined]
            index += count * self.stride


def batch_loader(
    first: int, stride: int, curriculum: Curriculum, num_workers: int
) -> tuple[Iterator[Batch], object]:
    """Batches without end, and the shared progress (`.value`) that the caller moves from 0 to 1."""
    progress = multiprocessing.get_context("fork").Value(c_double, 0.0)
    loader = DataLoader(
        Batches(first, stride, curriculum, progress),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        multiprocessing_context="fork" if num_workers else None,
    )
    return iter(loader), progress
