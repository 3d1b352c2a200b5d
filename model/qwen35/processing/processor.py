"""Messages to what the network takes: token ids, positions, patches.

Where the road of a question leaves words and pictures behind. Reads a checkpoint's small files only,
and imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, InputError, Qwen35Error
from qwen35.messages import ImagePart, Message, Part, TextPart
from qwen35.processing.boundaries import find_boundaries
from qwen35.processing.image import ImageProcessor, TokenBounds
from qwen35.processing.positions import mrope_positions
from qwen35.processing.template import ChatTemplate, ends_in_reasoning, normalise
from qwen35.processing.token_log import encode, find_logged
from qwen35.processing.tokenizer import Tokenizer, unmarked

# A picture that keeps this share of each side is not worth a note: sides are rounded to whole tokens.
KEPT_SIDE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class MediaSpan:
    """Where a picture stands in the prompt: placeholders ids[start : start + length]."""

    start: int
    length: int
    grid: tuple[int, int, int]  # (time, height, width) in patches
    sha256: str
    source: str
    original_size: tuple[int, int]  # (height, width) in pixels
    resized: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """One prompt, ready for prefill."""

    prompt: str  # as rendered: one placeholder for each picture
    ids: np.ndarray  # (T,) int64, placeholders expanded
    position_ids: np.ndarray  # (3, T) int64
    mrope_delta: int
    pixel_values: np.ndarray | None  # (P, values of a patch) float32, pictures in prompt order
    grid_thw: np.ndarray  # (pictures, 3) int64
    media: tuple[MediaSpan, ...]
    notes: tuple[str, ...]
    starts_in_reasoning: bool  # the prompt ends inside an open <think>
    # Numbers of ids after which someone may come back with another continuation, ascending; among them
    # the ends of pictures and documents.
    boundaries: tuple[int, ...] = ()
    document_ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Processor:
    """`template` is None for base models, `image` for models of text alone."""

    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate | None
    image: ImageProcessor | None

    @classmethod
    def from_folder(cls, folder: Path) -> "Processor":
        """Read a model folder's small files. Raises CheckpointError."""
        config = ModelConfig.from_folder(folder)
        tokenizer = Tokenizer.from_folder(folder)
        if tokenizer.size > config.text.vocab_size:
            path = folder / "tokenizer.json"
            raise CheckpointError(
                f"{path}: has {tokenizer.size} ids but config.json's 'vocab_size' is "
                f"{config.text.vocab_size}. The two files belong to different models.",
                path=str(path),
            )
        image = ImageProcessor.from_folder(folder, config.vision) if config.vision else None
        return cls(config, tokenizer, ChatTemplate.from_folder(folder), image)

    def prepare(
        self,
        messages: Sequence[Message],
        *,
        enable_thinking: bool | None = None,
        image_bounds: TokenBounds | None = None,
    ) -> ModelInput:
        """The prompt that asks for the next assistant message.

        `enable_thinking` None leaves it to the template, `image_bounds` None to the checkpoint.
        Raises InputError for a conversation or a picture that the model cannot take.
        """
        documents = [text for message in messages for text in self._documents(message)]
        messages = [self._protect(message) for message in normalise(messages)]
        pictures = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        sizes = [self._plan(picture, image_bounds) for picture in pictures]
        notes = [note for i, size in enumerate(sizes) if (note := self._shrink_note(pictures[i], size))]
        if self.template is None:
            notes.append("this model has no chat template: it continues the text instead of answering")
        prompt = self._render(messages, enable_thinking)
        logged = find_logged(prompt, messages, self.tokenizer)
        short_ids = encode(prompt, logged, self.tokenizer)
        boundaries = find_boundaries(
            prompt,
            short_ids,
            documents,
            self.tokenizer,
            lambda start, end: encode(prompt, logged, self.tokenizer, start, end),
            self.config.vision_end_token_id if pictures else None,
        )
        ids, media = self._expand(short_ids, pictures, sizes)
        grids = [span.grid for span in media]
        position_ids, mrope_delta = mrope_positions(ids, self.config, grids)
        return ModelInput(
            prompt=unmarked(prompt),
            ids=ids,
            position_ids=position_ids,
            mrope_delta=mrope_delta,
            pixel_values=self._patches(pictures, grids, image_bounds),
            grid_thw=np.array(grids, np.int64).reshape(-1, 3),
            media=media,
            notes=tuple(notes),
            starts_in_reasoning=ends_in_reasoning(prompt),
            boundaries=_expanded(boundaries.all, media),
            document_ends=_expanded(boundaries.documents, media),
        )

    def is_kept(
        self, messages: Sequence[Message], answer: Message, *, enable_thinking: bool | None = None
    ) -> bool:
        """Whether the next prompt will begin with this one and all that was written as `answer` to it.

        Told without a look at the pictures. `answer` has its `token_ids`. A template that refuses what
        would be asked next keeps nothing.
        """
        to_come = Message.of_text("user", "-")  # whatever it will say
        try:
            first = [self._protect(message) for message in normalise(messages)]
            then = [self._protect(message) for message in normalise([*messages, answer, to_come])]
            prompt = self._render(first, enable_thinking)
            longer = self._render(then, enable_thinking)
        except Qwen35Error:
            return False
        if not longer.startswith(prompt):
            return False
        logged = find_logged(longer, then, self.tokenizer)
        return bool(logged) and (logged[-1].start, logged[-1].ids) == (len(prompt), answer.token_ids)

    def _render(self, messages: Sequence[Message], enable_thinking: bool | None) -> str:
        """The prompt of protected messages, marks and all."""
        if self.template is None:
            return self._plain_prompt(messages)
        return self.template.render(messages, enable_thinking=enable_thinking)

    def _documents(self, message: Message) -> list[str]:
        """The texts that something follows in their message, protected."""
        texts = [part.text for part in message.parts[:-1] if isinstance(part, TextPart)]
        return [self.tokenizer.protect(text) for text in texts]

    def _protect(self, message: Message) -> Message:
        """Keep structure out of the text. An answer keeps the tokens that a model writes itself."""
        is_answer = message.role == "assistant"

        def protect(text: str) -> str:
            return self.tokenizer.protect(text, special_only=is_answer)

        parts: list[Part] = [
            TextPart(protect(part.text)) if isinstance(part, TextPart) else part for part in message.parts
        ]
        reasoning = None if message.reasoning is None else protect(message.reasoning)
        return replace(message, parts=tuple(parts), reasoning=reasoning)

    def _plan(self, picture: ImagePart, bounds: TokenBounds | None) -> tuple[int, int]:
        if self.image is None:
            raise InputError(f"{picture.source}: this model reads text alone. Choose one that sees pictures.")
        height, width = picture.pixels.shape[:2]
        try:
            return self.image.plan(height, width, bounds)
        except InputError as error:
            raise InputError(f"{picture.source}: {error}", path=picture.source) from None

    def _shrink_note(self, picture: ImagePart, resized: tuple[int, int]) -> str | None:
        """One line if the model sees fewer pixels than there are; None for small and enlarged pictures."""
        height, width = picture.pixels.shape[:2]
        if resized[0] >= KEPT_SIDE * height and resized[1] >= KEPT_SIDE * width:
            return None
        assert self.image is not None
        return (
            f"{picture.source}: {width}x{height} resized to {resized[1]}x{resized[0]} "
            f"({self.image.num_tokens(resized)} image tokens)"
        )

    def _plain_prompt(self, messages: Sequence[Message]) -> str:
        """The text alone, a picture written as the official template writes it."""
        config = self.config
        ids = (config.vision_start_token_id, config.image_token_id, config.vision_end_token_id)
        picture = "".join(self.tokenizer.token_of(i) or "" for i in ids if i is not None)
        return "\n\n".join(
            "".join(part.text if isinstance(part, TextPart) else picture for part in message.parts)
            for message in messages
        )

    def _expand(
        self, ids: list[int], pictures: Sequence[ImagePart], sizes: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, tuple[MediaSpan, ...]]:
        """Repeat each picture's placeholder, once in `ids`, as often as the picture has tokens."""
        short = np.array(ids, np.int64)
        if self.image is None:
            return short, ()
        places = np.flatnonzero(short == self.config.image_token_id)
        if len(places) != len(pictures):
            raise CheckpointError(
                f"The model's chat template leaves {len(places)} places for {len(pictures)} pictures."
            )
        lengths = [self.image.num_tokens(size) for size in sizes]
        repeats = np.ones(len(short), np.int64)
        repeats[places] = lengths
        starts = (np.cumsum(repeats) - repeats)[places]
        media = [
            MediaSpan(
                start=int(start),
                length=length,
                grid=self.image.grid(size),
                sha256=picture.sha256,
                source=picture.source,
                original_size=picture.pixels.shape[:2],
                resized=size,
            )
            for start, length, size, picture in zip(starts, lengths, sizes, pictures, strict=True)
        ]
        return np.repeat(short, repeats), tuple(media)

    def _patches(
        self,
        pictures: Sequence[ImagePart],
        grids: Sequence[tuple[int, int, int]],
        bounds: TokenBounds | None,
    ) -> np.ndarray | None:
        """Patches (P, values) of all pictures, written into one array: a large one is not held twice."""
        if self.image is None or not pictures:
            return None
        counts = [t * h * w for t, h, w in grids]
        values = np.empty((sum(counts), self.image.vision.patch_values), np.float32)
        start = 0
        for picture, count in zip(pictures, counts, strict=True):
            self.image.process(picture.pixels, bounds, out=values[start : start + count])
            start += count
        return values


def _expanded(places: Sequence[int], media: Sequence[MediaSpan]) -> tuple[int, ...]:
    """Numbers of ids with one placeholder a picture, as numbers of ids with all of them."""
    grown, before, expanded = 0, list(media), []
    for place in places:
        while before and before[0].start < place + grown:
            grown += before.pop(0).length - 1
        expanded.append(place + grown)
    return tuple(expanded)
