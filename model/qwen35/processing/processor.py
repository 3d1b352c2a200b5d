"""Messages to what the network takes: token ids, positions, patches.

Where the road of a question leaves words and pictures behind; a clip's frames are decoded when the engine
asks for them. Reads a checkpoint's small files only, and imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, InputError, Qwen35Error
from qwen35.messages import ImagePart, Message, Part, TextPart, VideoPart
from qwen35.processing.boundaries import find_boundaries
from qwen35.processing.image import ImageProcessor, TokenBounds
from qwen35.processing.positions import mrope_positions
from qwen35.processing.template import ChatTemplate, ends_in_reasoning, normalise
from qwen35.processing.token_log import encode, find_logged
from qwen35.processing.tokenizer import Tokenizer, unmarked
from qwen35.processing.video import PlannedClip, VideoProcessor

# A picture that keeps this share of each side is not worth a note: sides are rounded to whole tokens.
KEPT_SIDE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class MediaSpan:
    """Where a picture, or one pair of a clip's frames, stands in the prompt: placeholders
    ids[start : start + length]."""

    start: int
    length: int
    grid: tuple[int, int, int]  # (time, height, width) in patches; the time of a pair is 1
    sha256: str
    source: str
    original_size: tuple[int, int]  # (height, width) in pixels
    resized: tuple[int, int]
    clip: PlannedClip | None = None  # that the pair is of; None: a picture
    pair: int = 0  # which one of the clip

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def is_last(self) -> bool:
        """Whether nothing more of the picture or clip follows."""
        return self.clip is None or self.pair == self.clip.plan.num_pairs - 1


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """One prompt, ready for prefill."""

    prompt: str  # as rendered: one placeholder for each picture and each pair of frames
    ids: np.ndarray  # (T,) int64, placeholders expanded
    position_ids: np.ndarray  # (3, T) int64
    mrope_delta: int
    pixel_values: np.ndarray | None  # (P, values of a patch) float32, pictures in prompt order
    grid_thw: np.ndarray  # (pictures, 3) int64
    media: tuple[MediaSpan, ...]  # pictures and pairs, in prompt order
    notes: tuple[str, ...]
    starts_in_reasoning: bool  # the prompt ends inside an open <think>
    # Numbers of ids after which someone may come back with another continuation, ascending; among them
    # the ends of pictures, clips and documents.
    boundaries: tuple[int, ...] = ()
    document_ends: tuple[int, ...] = ()
    clips: tuple[PlannedClip, ...] = ()  # in prompt order

    @property
    def image_tokens(self) -> int:
        return sum(span.length for span in self.media if span.clip is None)

    @property
    def video_tokens(self) -> int:
        return sum(span.length for span in self.media if span.clip is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Processor:
    """`template` is None for base models, `image` and `video` for models of text alone.

    `is_packed`: whether the model that this is for is, which kernels for CPUs run.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate | None
    image: ImageProcessor | None
    video: VideoProcessor | None = None
    is_packed: bool = False

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
        video = VideoProcessor.from_folder(folder, config.vision) if config.vision else None
        return cls(config, tokenizer, ChatTemplate.from_folder(folder), image, video)

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
        shown = [part for message in messages for part in message.parts if not isinstance(part, TextPart)]
        pictures = [part for part in shown if isinstance(part, ImagePart)]
        spans = [span for part in shown for span in self._spans(part, image_bounds)]
        clips = [span.clip for span in spans if span.clip and span.is_last]
        notes = [note for span in spans if (note := self._shrink_note(span))]
        notes += [clip.note for clip in clips]
        if clips and self.video and self.video.assumed:
            notes.append(self.video.assumed)
        if self.template is None:
            notes.append("this model has no chat template: it continues the text instead of answering")
        prompt = self._write_pairs(self._render(messages, enable_thinking), clips)
        logged = find_logged(prompt, messages, self.tokenizer)
        short_ids = encode(prompt, logged, self.tokenizer)
        places = self._places(short_ids, spans)
        boundaries = find_boundaries(
            prompt,
            short_ids,
            documents,
            self.tokenizer,
            lambda start, end: encode(prompt, logged, self.tokenizer, start, end),
            self._media_ends(short_ids, places, spans),
        )
        ids, media = _expand(short_ids, places, spans)
        position_ids, mrope_delta = mrope_positions(ids, self.config, [span.grid for span in media])
        grids = [span.grid for span in media if span.clip is None]
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
            clips=tuple(clips),
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

    def _spans(self, part: ImagePart | VideoPart, bounds: TokenBounds | None) -> list[MediaSpan]:
        """A picture, or the pairs of a clip, before it is known where they stand."""
        source = part.source if isinstance(part, ImagePart) else part.clip.source
        if self.image is None or self.video is None:
            raise InputError(f"{source}: this model reads text alone. Choose one that sees pictures.")
        if isinstance(part, ImagePart):
            height, width = part.pixels.shape[:2]
            try:
                size = self.image.plan(height, width, bounds)
            except InputError as error:
                raise InputError(f"{source}: {error}", path=source) from None
            length, grid = self.image.num_tokens(size), self.image.grid(size)
            return [MediaSpan(0, length, grid, part.sha256, source, (height, width), size)]
        plan = self.video.plan(part.clip, part.sampling)
        clip = PlannedClip(part.clip, plan, self.video)
        length, grid = plan.tokens_per_pair, self.video.grid(plan)
        return [
            MediaSpan(0, length, grid, part.clip.sha256, source, plan.original_size, plan.size, clip, pair)
            for pair in range(plan.num_pairs)
        ]

    def _shrink_note(self, span: MediaSpan) -> str | None:
        """One line if the model sees fewer pixels of a picture than there are; None for those enlarged.

        The plan of a clip tells its size.
        """
        (height, width), resized = span.original_size, span.resized
        if span.clip or (resized[0] >= KEPT_SIDE * height and resized[1] >= KEPT_SIDE * width):
            return None
        return (
            f"{span.source}: {width}x{height} resized to {resized[1]}x{resized[0]} "
            f"({span.length} image tokens)"
        )

    def _plain_prompt(self, messages: Sequence[Message]) -> str:
        """The text alone, pictures and clips written as the official template writes them."""

        def text_of(part: Part) -> str:
            if isinstance(part, TextPart):
                return part.text
            config = self.config
            return self._placeholder(
                config.image_token_id if isinstance(part, ImagePart) else config.video_token_id
            )

        return "\n\n".join("".join(map(text_of, message.parts)) for message in messages)

    def _placeholder(self, token_id: int | None) -> str:
        """One image or video token between the tokens that open and close vision."""
        ids = (self.config.vision_start_token_id, token_id, self.config.vision_end_token_id)
        return "".join(self.tokenizer.token_of(i) or "" for i in ids if i is not None)

    def _write_pairs(self, prompt: str, clips: Sequence[PlannedClip]) -> str:
        """Put each clip's pairs, a placeholder and the time for each, where the template left one place."""
        if not clips or self.video is None:
            return prompt
        assert self.config.video_token_id is not None
        pair = place = self._placeholder(self.config.video_token_id)
        if self.video.keeps_wrapper:
            place = self.tokenizer.token_of(self.config.video_token_id) or ""
        before, *after = prompt.split(place)
        if len(after) != len(clips):
            raise CheckpointError(
                f"The model's chat template leaves {len(after)} places for {len(clips)} clips."
            )
        plans = [clip.plan for clip in clips]
        written = ["".join(plan.timestamp(index) + pair for index in range(plan.num_pairs)) for plan in plans]
        return before + "".join(text + rest for text, rest in zip(written, after, strict=True))

    def _places(self, ids: Sequence[int], spans: Sequence[MediaSpan]) -> list[int]:
        """Where in `ids` the one placeholder of each of `spans` is."""
        wanted = [
            self.config.image_token_id if span.clip is None else self.config.video_token_id for span in spans
        ]
        pads = {self.config.image_token_id, self.config.video_token_id} if self.image else set()
        places = [place for place, token in enumerate(ids) if token in pads]
        if [ids[place] for place in places] != wanted:
            raise CheckpointError(
                f"The model's chat template leaves {len(places)} places for {len(spans)} pictures and pairs "
                "of frames, or has them in another order."
            )
        return places

    def _media_ends(self, ids: Sequence[int], places: Sequence[int], spans: Sequence[MediaSpan]) -> set[int]:
        """Numbers of ids after which a picture or a clip is over, and the tokens that close it."""
        ends = set()
        for place, span in zip(places, spans, strict=True):
            if span.is_last:
                end = place + 1
                while end < len(ids) and ids[end] == self.config.vision_end_token_id:
                    end += 1
                ends.add(end)
        return ends

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


def _expand(
    ids: Sequence[int], places: Sequence[int], spans: Sequence[MediaSpan]
) -> tuple[np.ndarray, tuple[MediaSpan, ...]]:
    """Repeat each placeholder as often as its picture or pair has tokens."""
    repeats = np.ones(len(ids), np.int64)
    repeats[list(places)] = [span.length for span in spans]
    starts = (np.cumsum(repeats) - repeats)[list(places)]
    media = [replace(span, start=int(start)) for span, start in zip(spans, starts, strict=True)]
    return np.repeat(np.array(ids, np.int64), repeats), tuple(media)


def _expanded(places: Sequence[int], media: Sequence[MediaSpan]) -> tuple[int, ...]:
    """Numbers of ids with one placeholder a picture, as numbers of ids with all of them."""
    grown, before, expanded = 0, list(media), []
    for place in places:
        while before and before[0].start < place + grown:
            grown += before.pop(0).length - 1
        expanded.append(place + grown)
    return tuple(expanded)
