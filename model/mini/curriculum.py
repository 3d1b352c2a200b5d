"""What is drawn when: the three stages of the training and what each of them sees."""

import random
from dataclasses import dataclass
from typing import Literal

from mini.sample import SIDES

Stage = Literal["eyes", "language", "together"]
STAGES: tuple[Stage, ...] = ("eyes", "language", "together")
SEEDS_PER_STAGE = 1 << 40


@dataclass(frozen=True, slots=True)
class Curriculum:
    """One stage's data. `progress` runs from 0 to 1 over the stage."""

    stage: Stage
    tokens_per_step: int  # picture tokens: decides how many pictures of a size make a batch
    # Without it print is shown just so that it is told from shapes, and what it says is declined: on two
    # cores its characters were not learnt within an hour, and cost the shapes half of their time.
    reads: bool = True
    clips: float = 0.0  # the share of batches with clips, of the stage `together`
    documents: float = 0.0  # and of those without clips, that of batches with documents

    def seed(self, index: int) -> int:
        """The seed of the index-th picture: no two stages draw the same."""
        return STAGES.index(self.stage) * SEEDS_PER_STAGE + index

    def num_pictures(self, grid: tuple[int, int]) -> int:
        return max(1, round(self.tokens_per_step / (grid[0] * grid[1])))

    def draw_size(self, rng: random.Random, progress: float) -> tuple[int, int]:
        """(height, width) of a picture in pixels."""
        low, high = SIDES
        if self._is_first_words(progress):
            high = 144  # what is there is soon found among few tokens
        return rng.randint(low, high), rng.randint(low, high)

    def _is_first_words(self, progress: float) -> bool:
        """The language begins with small pictures of a shape or two: "What colour is it?" has one answer
        there, and so it is learnt that answers lie in pictures. With four shapes in a hundred tokens, that
        was not found out in a quarter of an hour."""
        return self.stage == "language" and progress < 0.35

    def details(self, progress: float) -> float:
        """The share of batches with parts of pictures: four times the shapes in the same time."""
        return 0.7 if self._is_first_sight(progress) else 0.4

    def _is_first_sight(self, progress: float) -> bool:
        return progress < 0.35 or not self.reads

    def printed_details(self, progress: float) -> float:
        """The share of those that show a printed line: shapes come first."""
        return 0.15 if self._is_first_sight(progress) else 0.6

    def worlds(self, progress: float) -> dict[str, float]:
        """Worlds and their weights."""
        if self.stage == "eyes" and self._is_first_sight(progress):
            return {"scene": 0.7, "text": 0.1, "receipt": 0.05, "outside": 0.15, "talk": 0.0}
        if self.stage == "eyes":
            return {"scene": 0.45, "text": 0.25, "receipt": 0.15, "outside": 0.15, "talk": 0.0}
        if self._is_first_words(progress):
            return {"scene": 0.9, "text": 0.0, "receipt": 0.0, "outside": 0.05, "talk": 0.05}
        if not self.reads and self.stage == "together":
            return {"scene": 0.55, "text": 0.12, "receipt": 0.06, "outside": 0.12, "talk": 0.15}
        if not self.reads or (self.stage == "language" and progress < 0.6):
            return {"scene": 0.7, "text": 0.12, "receipt": 0.04, "outside": 0.09, "talk": 0.05}
        return {"scene": 0.5, "text": 0.2, "receipt": 0.16, "outside": 0.09, "talk": 0.05}

    def num_questions(self, world: str, progress: float) -> int:
        """Questions about one picture: reading it costs as much as four of them."""
        if self.stage == "eyes":
            return 1
        if self._is_first_words(progress):
            return 5
        return 10 if world == "scene" else 6 if world != "outside" else 3

    def difficulty(self, world: str, progress: float) -> float:
        """How hard a picture is: printed text from a few clean characters to full pages, shapes from one to
        four."""
        if world == "scene":
            return 1.0 if not self._is_first_words(progress) else 0.0 if progress < 0.2 else 0.34
        return min(1.0, 0.15 + 1.7 * progress)
