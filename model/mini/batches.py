"""Training batches: pictures of one size, several questions each, as tensors.

Made ahead in worker processes. A step's batch follows from its number and the curriculum's
progress alone, so that an interrupted run goes on with data it has not seen.
"""

import multiprocessing
import random
from collections.abc import Iterator
from ctypes import c_double
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from mini.architecture import MERGE_SIZE, TOKEN_PIXELS, model_config, preprocessor_json
from mini.labels import Question, Sample
from mini.prompt import render
from mini.sample import SIDES, SYSTEM_MESSAGES, make_sample
from mini.tokenizer import MiniTokenizer
from qwen35.config import ModelConfig
from qwen35.processing.image import ImageProcessor
from qwen35.processing.positions import mrope_positions

IGNORE = -100
ROW_GROUPS = 2  # questions are sorted by length into so many groups, to pad little
SLOTS = 4  # characters that one picture token may be asked for by the auxiliary head
NUM_CHARS = 96  # 0 is "no character", 1..95 are ASCII 32..126
KINDS = ("circle", "square", "triangle", "star", "diamond", "hexagon")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "grey")


@dataclass(frozen=True, slots=True)
class Curriculum:
    """What to draw at a moment of training. `progress` runs from 0 to 1 over the whole run."""

    tokens_per_step: int  # picture tokens: decides how many pictures of a size make a batch
    # Until here the vision encoder learns alone, from the labels of what was drawn where: it sees
    # four times the pictures in the same time.
    vision_alone: float = 0.2
    # From there to here the language model learns to look, from an encoder that stands still: twice
    # the steps. After that both learn together.
    vision_rests_until: float = 0.65
    reading_from: float = 0.65  # from here on as much reading as looking
    drafts_from: float = 0.85  # the MTP layer learns last, from a trunk that stands nearly still

    def worlds(self, progress: float) -> dict[str, float]:
        """Worlds and their weights: looking before reading."""
        if progress < self.reading_from:
            return {"scene": 0.74, "text": 0.1, "receipt": 0.02, "outside": 0.09, "talk": 0.05}
        return {"scene": 0.36, "text": 0.34, "receipt": 0.16, "outside": 0.09, "talk": 0.05}

    def num_questions(self, world: str, progress: float) -> int:
        """Questions about one picture: more where their answers can be learnt by now."""
        return 7 if world == "scene" else 4 if progress >= self.reading_from and world != "outside" else 2

    def difficulty(self, progress: float) -> float:
        return min(1.0, 0.15 + 2.2 * progress)


@dataclass(slots=True)
class Rows:
    """Questions of about one length with their answers, R of them, right-padded to T tokens."""

    ids: torch.Tensor  # (R, T), what follows the picture
    positions: torch.Tensor  # (3, R, T)
    targets: torch.Tensor  # (R, T): the token after each, IGNORE outside the answers
    pictures: torch.Tensor  # (R,): which of the batch's pictures each is about

    def to(self, device: torch.device) -> "Rows":
        return Rows(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


@dataclass(slots=True)
class Pictures:
    """B pictures of one size, the prompt up to their end, and the labels of what was drawn on them."""

    patches: torch.Tensor  # (B * P, values)
    grid: tuple[int, int, int]
    prefix: torch.Tensor  # (B, T)
    positions: torch.Tensor  # (3, B, T)
    chars: torch.Tensor  # (B * M, SLOTS) characters in each picture token
    kinds: torch.Tensor  # (B * M,): 0 none, else 1 + index of the shape's kind
    colours: torch.Tensor  # (B * M,) likewise
    places: torch.Tensor  # (B * M,) likewise, of the nine places from the top left on
    centres: torch.Tensor  # (B * M,): 1 where a shape has its centre, so that shapes can be counted

    def to(self, device: torch.device) -> "Pictures":
        values = (getattr(self, name) for name in self.__slots__)
        return Pictures(
            *(v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for v in values)
        )


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

    def make(self, step: int, progress: float, curriculum: Curriculum, split: str = "train") -> Batch:
        rng = random.Random(step * 7919 + 1)
        worlds = curriculum.worlds(progress)
        system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.2 else None
        talks = progress >= curriculum.vision_alone and rng.random() < worlds["talk"]
        del worlds["talk"]
        if talks:
            return self.collate([make_sample("talk", step, split, num_questions=48)], None, system)
        size = rng.randint(*SIDES), rng.randint(*SIDES)
        grid = self._grid(size)
        samples = []
        for index in range(max(1, round(curriculum.tokens_per_step / (grid[0] * grid[1])))):
            world = rng.choices([*worlds], [*worlds.values()])[0]
            difficulty = min(1.0, curriculum.difficulty(progress) * rng.uniform(0.4, 1.0) ** 0.5)
            count = curriculum.num_questions(world, progress)
            samples.append(
                make_sample(world, step * 1000 + index, split, self._size_near(size, rng), count, difficulty)
            )
        return self.collate(samples, grid, system)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in picture tokens of a picture of `size` (height, width) in pixels."""
        height, width = self.images.plan(*size)
        return height // TOKEN_PIXELS, width // TOKEN_PIXELS

    def _size_near(self, size: tuple[int, int], rng: random.Random) -> tuple[int, int]:
        """Another size that the official resize takes to the same grid, or the same size."""
        near = size[0] + rng.randint(-7, 7), size[1] + rng.randint(-7, 7)
        return near if self._grid(near) == self._grid(size) else size

    def collate(self, samples: list[Sample], grid: tuple[int, int] | None, system: str | None) -> Batch:
        """One batch; `grid` (height, width) in picture tokens is that of every picture."""
        for question in (q for sample in samples for q in sample.questions):
            question.system = system
        pictures, next_position = None, 0
        if grid is not None:
            pictures = self._pictures(samples, grid)
            next_position = int(pictures.positions.max()) + 1
        rows = [
            (*self._row(question, grid is not None), index)
            for index, sample in enumerate(samples)
            for question in sample.questions
        ]
        rows.sort(key=lambda row: len(row[0]))
        size = -(-len(rows) // ROW_GROUPS)
        groups = [self._pad(rows[i : i + size], next_position) for i in range(0, len(rows), size)]
        return Batch(pictures, groups)

    def _pictures(self, samples: list[Sample], grid: tuple[int, int]) -> Pictures:
        image_grid = (1, grid[0] * MERGE_SIZE, grid[1] * MERGE_SIZE)
        patches, labels = [], []
        for sample in samples:
            assert sample.pixels is not None
            picture = self.images.process(sample.pixels)
            assert picture.grid == image_grid, (picture.grid, image_grid)
            patches.append(picture.values)
            labels.append(cell_labels(sample, grid))
        start = render(samples[0].questions[0], True)[0]
        ids = self.tokenizer.encode(start.replace("<|image_pad|>", "<|image_pad|>" * (grid[0] * grid[1])))
        positions, _ = mrope_positions(np.array(ids), self.config, [image_grid])
        chars, kinds, colours, places, centres = (
            torch.from_numpy(np.concatenate(part)) for part in zip(*labels, strict=True)
        )
        return Pictures(
            patches=torch.from_numpy(np.concatenate(patches)),
            grid=image_grid,
            prefix=torch.tensor(ids).repeat(len(samples), 1),
            positions=torch.from_numpy(positions)[:, None].repeat(1, len(samples), 1),
            chars=chars,
            kinds=kinds,
            colours=colours,
            places=places,
            centres=centres,
        )

    def _pad(self, rows: list[tuple[list[int], int, int]], next_position: int) -> Rows:
        """Rows of (ids, how many of them are the prompt's, picture) as tensors."""
        length = max(len(ids) for ids, _, _ in rows)
        padded = torch.full((len(rows), length), self.tokenizer.id("<|endoftext|>"))
        targets = torch.full((len(rows), length), IGNORE)
        for index, (ids, num_prompt, _) in enumerate(rows):
            padded[index, : len(ids)] = torch.tensor(ids)
            targets[index, num_prompt - 1 : len(ids) - 1] = torch.tensor(ids[num_prompt:])
        positions = (next_position + torch.arange(length)).repeat(3, len(rows), 1)
        return Rows(padded, positions, targets, torch.tensor([picture for _, _, picture in rows]))

    def _row(self, question: Question, has_image: bool) -> tuple[list[int], int]:
        """Ids after the picture, and how many of them are the prompt's."""
        _, rest, target = render(question, has_image)
        prompt = self.tokenizer.encode(rest)
        return prompt + self.tokenizer.encode(target), len(prompt)


def tokenizer_config(tokenizer: MiniTokenizer) -> ModelConfig:
    """mini's configuration for this tokenizer; the vocabulary padded to a multiple of 64 rows."""
    return model_config(tokenizer.ids, -(-len(tokenizer) // 64) * 64)


def cell_labels(sample: Sample, grid: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """What lies in each picture token of a grid (height, width), flat: see `Pictures`.

    A character belongs to the token that holds the middle of its line at its own middle, so that the
    tokens in raster order spell the text. More than SLOTS in one token are left out. A token counts
    as a shape's where its middle lies well inside, as none's where it lies well outside, and is
    ignored between.
    """
    assert sample.pixels is not None
    height, width = sample.pixels.shape[:2]
    chars = np.zeros((*grid, SLOTS), np.int64)
    used = np.zeros(grid, np.int64)
    for glyph in sorted(sample.glyphs, key=lambda g: g.x):
        row, column = int(glyph.y / height * grid[0]), int(glyph.x / width * grid[1])
        if 0 <= row < grid[0] and 0 <= column < grid[1] and used[row, column] < SLOTS:
            chars[row, column, used[row, column]] = ord(glyph.char) - 31
            used[row, column] += 1
    kinds, colours, places, centres = (np.zeros(grid, np.int64) for _ in range(4))
    y = ((np.arange(grid[0]) + 0.5) / grid[0] * height)[:, None]
    x = (np.arange(grid[1]) + 0.5) / grid[1] * width
    for shape in sample.shapes:
        distance = np.hypot(y - shape.y, x - shape.x) / shape.radius
        place = int(shape.y / height * 3) * 3 + int(shape.x / width * 3)
        for labels, index in (
            (kinds, KINDS.index(shape.kind)),
            (colours, COLOURS.index(shape.colour)),
            (places, place),
        ):
            labels[distance < 1.15] = IGNORE
            labels[distance < 0.5] = 1 + index
        centres[int(shape.y / height * grid[0]), int(shape.x / width * grid[1])] = 1
    return chars.reshape(-1, SLOTS), *(labels.reshape(-1) for labels in (kinds, colours, places, centres))


class Batches(IterableDataset):
    def __init__(self, first_step: int, curriculum: Curriculum, progress: object) -> None:
        self.first_step, self.curriculum, self.progress = first_step, curriculum, progress

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        worker, count = (info.id, info.num_workers) if info else (0, 1)
        maker = BatchMaker()
        step = self.first_step + worker
        while True:
            yield maker.make(step, self.progress.value, self.curriculum)  # type: ignore[attr-defined]
            step += count


def batch_loader(first_step: int, curriculum: Curriculum, num_workers: int) -> tuple[Iterator[Batch], object]:
    """Batches without end, and the shared progress (`.value`) that the caller moves from 0 to 1."""
    progress = multiprocessing.get_context("fork").Value(c_double, 0.0)
    dataset = Batches(first_step, curriculum, progress)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        multiprocessing_context="fork" if num_workers else None,
    )
    return iter(loader), progress
