"""From settings to a model that answers. torch is imported by `load` alone, and not for packed models."""

import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen35.engine.request import Request, SamplingOverrides
from qwen35.errors import InputError
from qwen35.memory import usable_memory
from qwen35.messages import ImagePart, Message, Part, Sampling, TextPart, VideoPart
from qwen35.processing.image import TokenBounds
from qwen35.processing.processor import Processor
from qwen35.weights.manifest import is_packed
from qwencli.errors import UsageError
from qwencli.interrupts import before_leaving
from qwencli.machine import free_disk
from qwencli.media.attach import Attachment
from qwencli.settings import Settings

if TYPE_CHECKING:
    from qwen35.backends.base import Backend
    from qwen35.engine.engine import Engine
    from qwen35.engine.load import States
    from qwencli.structured.form import Form

CPU_IMAGE_TOKENS = 2048  # more are minutes of work on a CPU
CPU_VIDEO_TOKENS = 8192


def load(
    folder: Path,
    processor: Processor,
    settings: Settings,
    cache: Path,
    states: "States | None",
    on_progress: Callable[[int, int], None],
    notify: Callable[[str], None],
) -> "Engine":
    """The engine of the model in `folder`; `on_progress` gets bytes done and in total.

    `cache`: a folder for a library that has to be compiled; `states` as `load_engine` takes them.
    """
    from qwen35.engine.load import load_engine

    engine = load_engine(
        folder,
        processor=processor,
        device=settings.device,
        load=settings.load,
        ram=settings.ram,
        quant=None if settings.quant == "none" else settings.quant,
        num_threads=settings.threads,
        speculate=settings.speculate,
        cache=cache,
        states=states,
        on_progress=on_progress,
        on_note=notify,
    )
    before_leaving.append(partial(_save_hot, weakref.ref(engine.backend)))
    return engine


def _save_hot(backend: "weakref.ref[Backend]") -> None:
    if still_there := backend():
        still_there.save_hot()


def states_of(settings: Settings, folder: Path, *, is_private: bool) -> "States":
    """Where states of prompts are kept, and how much of them.

    Where the user says nothing: a fifth of the free disk, but at most 20 GB, and a tenth of the memory
    that may be taken.
    """
    from qwen35.engine.load import States

    disk, ram, usable = settings.cache_disk, settings.cache_ram, usable_memory()
    return States(
        folder,
        min(20 * 10**9, free_disk(folder) // 5) if disk is None else disk,
        min(settings.ram or usable, usable) // 10 if ram is None else ram,
        can_write=not is_private and disk != 0,
    )


def open_processor(folder: Path) -> Processor:
    """What turns messages into tokens, without the model."""
    return replace(Processor.from_folder(folder), is_packed=is_packed(folder))


def plan(
    processor: Processor,
    settings: Settings,
    messages: tuple[Message, ...],
    attachments: Sequence[Attachment],
    notify: Callable[[str], None],
    form: "Form | None" = None,
) -> tuple[Request, list[dict[str, Any]]]:
    """The request, and its attachments with their tokens, as JSON shows them. `form`: of the answer."""
    messages = _with_capped_clips(processor, settings, messages, attachments, notify)
    bounds = _image_bounds(processor, settings)
    if bounds and settings.image_tokens.is_capped:
        _notify_of_cap(processor, attachments, bounds, notify)
    request = Request(
        messages=messages,
        thinking=settings.think.enabled,
        thinking_budget=settings.think.budget,
        sampling=SamplingOverrides(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            presence_penalty=settings.presence_penalty,
            repetition_penalty=settings.repetition_penalty,
        ),
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        seed=settings.seed,
        image_bounds=bounds,
        max_context=settings.ctx,
        grammar=form.grammar if form else None,
        ends_loops=settings.loops == "end",
        fault=form.fault if form and form.schema is not None else None,
    )
    shown = {
        id(part.clip): part for message in messages for part in message.parts if isinstance(part, VideoPart)
    }
    return request, [_describe(processor, attachment, bounds, shown) for attachment in attachments]


def sampling_of(settings: Settings) -> Sampling:
    """What is to be seen of clips that are attached now. Raises UsageError for what cannot be meant."""
    if settings.fps is not None and settings.frames is not None:
        raise UsageError("Of --fps and --frames, only one can be given.")
    if settings.end is not None and settings.end <= (settings.start or 0):
        raise UsageError(f"--end {settings.end:g} is not after --start {settings.start or 0:g}.")
    return Sampling(
        fps=settings.fps,
        num_frames=settings.frames,
        start=settings.start,
        end=settings.end,
        max_tokens=settings.video_tokens.maximum,
    )


def _image_bounds(processor: Processor, settings: Settings) -> TokenBounds | None:
    """Tokens per picture; None leaves them to the checkpoint."""
    if processor.image is None:
        return None
    own, asked = processor.image.bounds, settings.image_tokens
    if asked.maximum is not None:
        return TokenBounds(asked.minimum or min(own.min, asked.maximum), asked.maximum)
    if asked.is_capped and own.max > CPU_IMAGE_TOKENS and not _runs_on_cuda(processor, settings.device):
        return TokenBounds(min(own.min, CPU_IMAGE_TOKENS), CPU_IMAGE_TOKENS)
    return None


def _runs_on_cuda(processor: Processor, device: str) -> bool:
    """Where `device` leads; a packed model to the kernels for CPUs, unless it is told otherwise."""
    if device != "auto":
        return device == "cuda"
    return not processor.is_packed and _may_have_cuda()


def _may_have_cuda() -> bool:
    """Told without the seconds that the import of torch takes."""
    has_driver = Path("/proc/driver/nvidia/version").exists() or os.name == "nt"
    return has_driver and not version("torch").endswith("+cpu")


def _notify_of_cap(
    processor: Processor,
    attachments: Sequence[Attachment],
    bounds: TokenBounds,
    notify: Callable[[str], None],
) -> None:
    pictures = [part for item in attachments for part in item.parts if isinstance(part, ImagePart)]
    wanted = [_image_tokens(processor, picture, None) for picture in pictures]
    if num_capped := sum(tokens > bounds.max for tokens in wanted):
        which = f"{num_capped} pictures are" if num_capped > 1 else "a picture is"
        notify(
            f"{which} capped at {bounds.max} of up to {max(wanted)} tokens to save time on the CPU; "
            "--image-tokens model takes all"
        )


def _with_capped_clips(
    processor: Processor,
    settings: Settings,
    messages: tuple[Message, ...],
    attachments: Sequence[Attachment],
    notify: Callable[[str], None],
) -> tuple[Message, ...]:
    """`messages` with a bound for clips that would take long on a CPU; a note where one is new among them."""
    if (
        processor.video is None
        or not settings.video_tokens.is_capped
        or _runs_on_cuda(processor, settings.device)
    ):
        return messages
    new = {id(part.clip) for item in attachments for part in item.parts if isinstance(part, VideoPart)}
    wanted = 0

    def capped(part: Part) -> Part:
        nonlocal wanted
        if not isinstance(part, VideoPart) or part.sampling.max_tokens is not None:
            return part
        assert processor.video is not None
        tokens = processor.video.plan(part.clip, part.sampling).num_tokens
        if tokens <= CPU_VIDEO_TOKENS:
            return part
        if id(part.clip) in new:
            wanted = max(wanted, tokens)
        return replace(part, sampling=replace(part.sampling, max_tokens=CPU_VIDEO_TOKENS))

    messages = tuple(
        replace(message, parts=tuple(capped(part) for part in message.parts)) for message in messages
    )
    if wanted:
        notify(
            f"a video is capped at {CPU_VIDEO_TOKENS} of {wanted} tokens to save time on the CPU; "
            "--video-tokens model takes all"
        )
    return messages


def _describe(
    processor: Processor, attachment: Attachment, bounds: TokenBounds | None, shown: dict[int, VideoPart]
) -> dict[str, Any]:
    """`shown`: the clips as they go into the prompt, by the id of the clip."""
    tokens, details = 0, {}
    for part in attachment.parts:
        if isinstance(part, TextPart):
            tokens += len(processor.tokenizer.encode(processor.tokenizer.protect(part.text)))
        elif isinstance(part, ImagePart):
            tokens += _image_tokens(processor, part, bounds)
        else:
            details = {"duration_s": round(part.clip.duration, 3)}
            if processor.video is not None:  # a model of text alone: the engine refuses the clip
                plan = processor.video.plan(part.clip, shown[id(part.clip)].sampling)
                tokens += plan.num_tokens
                details |= {name: value for name, value in plan.to_dict().items() if name != "tokens"}
    return {
        "source": attachment.source,
        "type": attachment.type,
        "sha256": attachment.sha256,
        "size_bytes": attachment.size_bytes,
        "tokens": tokens,
    } | details


def _image_tokens(processor: Processor, picture: ImagePart, bounds: TokenBounds | None) -> int:
    if processor.image is None:  # a model of text alone: the engine refuses the picture
        return 0
    height, width = picture.pixels.shape[:2]
    try:
        return processor.image.num_tokens(processor.image.plan(height, width, bounds))
    except InputError as error:
        raise InputError(f"{picture.source}: {error}", path=picture.source) from None
