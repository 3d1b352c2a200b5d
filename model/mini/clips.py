"""Clips: one to four plain shapes, and the one thing that happens to them.

Drawn at any time and size, so that they are planned, resized and stamped by the program's own video
processor. What happens falls between two pairs of frames that a model is shown.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mini.architecture import video_processor
from mini.clip_questions import ClipAsker
from mini.degrade import degrade
from mini.labels import PairLabels, Sample, Shape, ShownClip
from mini.outside import draw_outside
from mini.outside_questions import decline
from mini.scene_questions import COLOURS, KINDS
from mini.scenes import Colour, Points, draw_colour, draw_ground, outline_points, paint
from mini.talk import ABOUT_A_PICTURE
from qwen35.processing.video_plan import VideoPlan

NUM_FRAMES = {4: 3, 5: 1, 6: 3, 7: 1, 8: 4, 10: 2, 12: 2}  # that are shown, with their weights
FRAME_RATES = (4, 5, 8, 10, 12, 15, 24, 25, 30)
STORIES = {"moves": 6, "turns": 7, "appears": 3, "disappears": 3, "counts": 3, "nothing": 2}
OUTSIDE_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Shot:
    """How a clip is recorded. `size` is (height, width) in pixels, `duration` in seconds."""

    size: tuple[int, int]
    duration: float
    fps: float


def draw_shot(rng: random.Random, *, long_share: float = 0.08) -> Shot:
    """Mostly two to six seconds; `long_share` of them up to twenty, shown at fewer frames a second.

    In short clips a pair's number and its second are the same: what is read from the time stamps is learnt
    from the long ones.
    """
    short = rng.randint(80, 150)
    ratio = rng.choice([1.0, 1.0, 4 / 3, 4 / 3, 16 / 9, rng.uniform(1.0, 1.8)])
    size = (short, round(short * ratio)) if rng.random() < 0.75 else (round(short * ratio), short)
    fps = rng.choice(FRAME_RATES)
    wanted = rng.choices([*NUM_FRAMES], [*NUM_FRAMES.values()])[0] / 2 + rng.uniform(0.0, 0.45)
    if rng.random() < long_share:
        wanted = rng.uniform(6.5, 20.0)
    return Shot(size, max(4, round(wanted * fps)) / fps, fps)


class Film:
    """A `messages.Clip` that is drawn when it is looked at."""

    source, sha256 = "drawn", "0" * 64
    starts = None

    def __init__(self, shot: Shot, draw: Callable[[float], np.ndarray]) -> None:
        """`draw` gives the picture (height, width, 3) of a time in seconds."""
        self.height, self.width = shot.size
        self.duration, self.fps = shot.duration, shot.fps
        self.num_frames = round(shot.duration * shot.fps)
        self._draw = draw

    def pictures(self) -> Iterator[np.ndarray]:
        """Every frame as it is recorded."""
        return (self._draw(number / self.fps) for number in range(self.num_frames))

    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """As `messages.Clip` has it."""
        for time in times:
            number = min(int(time * self.fps + 1e-6), self.num_frames - 1)
            pixels = self._draw(number / self.fps)
            if pixels.shape[:2] != size:
                image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
                pixels = np.asarray(image)
            yield pixels

    def notes(self) -> tuple[str, ...]:
        return ()


@dataclass(slots=True)
class Actor:
    """A shape of a clip; times in seconds, places (x, y) in pixels."""

    kind: str
    colour: str
    place: tuple[float, float]
    radius: float
    goal: tuple[float, float] | None = None
    moves: tuple[float, float] = (0.0, 0.0)  # from when to when
    comes: float = -math.inf
    goes: float = math.inf
    turns: float = math.inf
    next_colour: str = ""

    def is_there(self, time: float) -> bool:
        return self.comes <= time < self.goes

    def at(self, time: float) -> Shape | None:
        if not self.is_there(time):
            return None
        x, y = self.place
        if self.goal is not None:
            begin, end = self.moves
            part = min(1.0, max(0.0, (time - begin) / (end - begin)))
            x, y = x + part * (self.goal[0] - x), y + part * (self.goal[1] - y)
        return Shape(self.kind, self.next_colour if time >= self.turns else self.colour, x, y, self.radius)

    def in_pair(self, times: tuple[float, float]) -> Shape | None:
        """As the pair's two frames show it on the average."""
        first, second = (self.at(time) for time in times)
        if first is None or second is None:
            return second
        return Shape(
            second.kind, second.colour, (first.x + second.x) / 2, (first.y + second.y) / 2, second.radius
        )


@dataclass(slots=True)
class Casting:
    """Draws the actors of one story."""

    shot: Shot
    plan: VideoPlan
    rng: random.Random

    def cast(self, story: str) -> list[Actor]:
        if story == "counts":
            return self._crowd()
        rng = self.rng
        kind, other_kind = rng.sample(KINDS, 2)
        colour, next_colour, other_colour = rng.sample(COLOURS, 3)
        cells = rng.sample(range(9), 2)
        actor = self._shape(kind, colour, cells[0])
        change = self.change()
        if story == "moves":
            self._send(actor, change)
        elif story == "turns":
            actor.turns, actor.next_colour = change, next_colour
        elif story == "appears":
            actor.comes = change
        elif story == "disappears":
            actor.goes = change
        actors = [actor]
        if rng.random() < 0.3:
            if actor.goal is not None:  # beside the actor's way
                is_across = actor.goal[1] == actor.place[1]
                free = [
                    c for c in range(9) if (c // 3 != cells[0] // 3 if is_across else c % 3 != cells[0] % 3)
                ]
                cells[1] = rng.choice(free)
            actors.append(self._shape(other_kind, other_colour, cells[1]))
        return actors

    def change(self, pair: int | None = None) -> float:
        """A time between two pairs of frames, that before number `pair`."""
        pair = pair or self.rng.randint(1, self.plan.num_pairs - 1)
        return (self.plan.pair(pair - 1)[1] + self.plan.pair(pair)[0]) / 2

    def _shape(self, kind: str, colour: str, cell: int) -> Actor:
        height, width = self.shot.size
        radius = min(height, width) * self.rng.uniform(0.12, 0.155)
        x = (cell % 3 + 0.5) * width / 3 + self.rng.uniform(-1, 1) * max(0.0, width / 6 - 1.1 * radius)
        y = (cell // 3 + 0.5) * height / 3 + self.rng.uniform(-1, 1) * max(0.0, height / 6 - 1.1 * radius)
        return Actor(kind, colour, (x, y), radius)

    def _send(self, actor: Actor, change: float) -> None:
        """On a way along a row or a column, from the beginning or from the change on.

        So far that the first and the last pair show it at two of the nine places, whatever the pairs between.
        """
        rng, (height, width) = self.rng, self.shot.size
        begin, end = rng.uniform(0.15, 0.22), rng.uniform(0.78, 0.85)
        if rng.random() < 0.5:
            begin, end = end, begin
        x, y = actor.place
        if rng.random() < 0.5:
            actor.place, actor.goal = (begin * width, y), (end * width, y)
        else:
            actor.place, actor.goal = (x, begin * height), (x, end * height)
        last = self.plan.pair(self.plan.num_pairs - 1)[0]
        is_late = rng.random() < 0.35
        arrives = (
            last if is_late and change > self.plan.pair(self.plan.num_pairs - 2)[1] else self.plan.times[-1]
        )
        actor.moves = change if is_late else 0.0, arrives

    def _crowd(self) -> list[Actor]:
        """Shapes of one kind and colour that become more or fewer, one by one if there are pairs enough."""
        rng = self.rng
        low, high = sorted(rng.sample(range(1, 4), 2))
        kind, colour = rng.choice(KINDS), rng.choice(COLOURS)
        actors = [self._shape(kind, colour, cell) for cell in rng.sample(range(9), high)]
        pairs = range(1, self.plan.num_pairs)
        steps = high - low
        chosen = rng.sample(pairs, steps) if steps <= len(pairs) else [rng.choice(pairs)] * steps
        become_more = rng.random() < 0.5
        for actor, pair in zip(actors, chosen, strict=False):
            if become_more:
                actor.comes = self.change(pair)
            else:
                actor.goes = self.change(pair)
        return actors


def film_of(shot: Shot, actors: Sequence[Actor], rng: random.Random) -> Film:
    ground = draw_ground(shot.size, rng)
    outlines: list[Points] = [outline_points(actor.kind, rng) for actor in actors]
    fills: list[dict[str, Colour]] = [
        {name: draw_colour(name, rng) for name in (actor.colour, actor.next_colour) if name}
        for actor in actors
    ]
    if len({(actor.kind, actor.colour) for actor in actors}) == 1:
        fills = [fills[0]] * len(actors)
    degrading = rng.getrandbits(60)

    def draw(time: float) -> np.ndarray:
        image = ground.copy()
        for actor, points, fill in zip(actors, outlines, fills, strict=True):
            shape = actor.at(time)
            if shape is not None:
                paint(image, points, shape.x, shape.y, shape.radius, fill[shape.colour])
        return degrade(image, random.Random(degrading))

    return Film(shot, draw)


def label_pairs(actors: Sequence[Actor], plan: VideoPlan) -> list[PairLabels]:
    times = [plan.pair(number) for number in range(plan.num_pairs)]
    return [
        PairLabels([actor.in_pair(pair) for actor in actors], int(sum(pair) / 2 + 1e-6)) for pair in times
    ]


def make_clip(num_questions: int, rng: random.Random, shot: Shot | None = None) -> Sample:
    shot = shot or draw_shot(rng)
    # What is planned depends on the shot alone, not on what is drawn.
    plan = video_processor().plan(Film(shot, lambda time: np.zeros((*shot.size, 3), np.uint8)))
    if rng.random() < OUTSIDE_SHARE:
        return make_outside_clip(shot, plan, num_questions, rng)
    story = rng.choices([*STORIES], [*STORIES.values()])[0]
    actors = Casting(shot, plan, rng).cast(story)
    pairs = label_pairs(actors, plan)
    questions = ClipAsker(story, pairs, shot.size, rng).ask(num_questions)
    clip = ShownClip(film_of(shot, actors, rng), plan, pairs)
    return Sample(world="clip", pixels=None, questions=questions, clip=clip)


def make_outside_clip(shot: Shot, plan: VideoPlan, num_questions: int, rng: random.Random) -> Sample:
    """A walk over a picture of what mini does not know: what is asked is declined."""
    height, width = shot.size
    large = draw_outside((round(height * 1.3), round(width * 1.3)), rng)
    begin, end = ((rng.uniform(0, 0.3) * height, rng.uniform(0, 0.3) * width) for _ in range(2))

    def draw(time: float) -> np.ndarray:
        part = time / shot.duration
        y, x = (int(b + part * (e - b)) for b, e in zip(begin, end, strict=True))
        y, x = min(y, large.shape[0] - height), min(x, large.shape[1] - width)
        return large[y : y + height, x : x + width]

    asked = [*ClipAsker.ASKED_OF_ANY, *ABOUT_A_PICTURE]
    questions = [decline(question, rng) for question in rng.sample(asked, min(num_questions, len(asked)))]
    return Sample(world="clip", pixels=None, questions=questions, clip=ShownClip(Film(shot, draw), plan, []))
