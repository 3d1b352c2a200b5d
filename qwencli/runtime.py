"""From settings to a model that answers. torch is imported by `load` alone, and not for packed models."""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen35.engine.request import Request, SamplingOverrides
from qwen35.errors import InputError
from qwen35.memory import total_memory
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.processing.image import TokenBounds
from qwen35.processing.processor import Processor
from qwencli.machine import free_disk
from qwencli.media.attach import Attachment
from qwencli.settings import Settings

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine
    from qwen35.engine.load import States

CPU_IMAGE_TOKENS = 2048  # more are minutes of work on a CPU


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

    return load_engine(
        folder,
        processor=processor,
        device=settings.device,
        load=settings.load,
        ram=settings.ram,
        quant=None if settings.quant == "none" else settings.quant,
        num_threads=settings.threads,
        cache=cache,
        states=states,
        on_progress=on_progress,
        on_note=notify,
    )


def states_of(settings: Settings, folder: Path, *, is_private: bool) -> "States":
    """Where states of prompts are kept, and how much of them.

    Where the user says nothing: a fifth of the free disk, but at most 20 GB, and a tenth of the memory
    that may be taken.
    """
    from qwen35.engine.load import States

    disk, ram = settings.cache_disk, settings.cache_ram
    return States(
        folder,
        min(20 * 10**9, free_disk(folder) // 5) if disk is None else disk,
        (settings.ram or total_memory()) // 10 if ram is None else ram,
        can_write=not is_private and disk != 0,
    )


def open_processor(folder: Path) -> Processor:
    """What turns messages into tokens, without the model."""
    return Processor.from_folder(folder)


def plan(
    processor: Processor,
    settings: Settings,
    messages: tuple[Message, ...],
    attachments: Sequence[Attachment],
    notify: Callable[[str], None],
) -> tuple[Request, list[dict[str, Any]]]:
    """The request, and its attachments with their tokens, as JSON shows them."""
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
    )
    return request, [_describe(processor, attachment, bounds) for attachment in attachments]


def _image_bounds(processor: Processor, settings: Settings) -> TokenBounds | None:
    """Tokens per picture; None leaves them to the checkpoint."""
    if processor.image is None:
        return None
    own, asked = processor.image.bounds, settings.image_tokens
    if asked.maximum is not None:
        return TokenBounds(asked.minimum or min(own.min, asked.maximum), asked.maximum)
    if asked.is_capped and own.max > CPU_IMAGE_TOKENS and not _runs_on_cuda(settings.device):
        return TokenBounds(min(own.min, CPU_IMAGE_TOKENS), CPU_IMAGE_TOKENS)
    return None


def _runs_on_cuda(device: str) -> bool:
    """Where `device` leads, told without the seconds that the import of torch takes."""
    if device != "auto":
        return device == "cuda"
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


def _describe(processor: Processor, attachment: Attachment, bounds: TokenBounds | None) -> dict[str, Any]:
    tokens = 0
    for part in attachment.parts:
        if isinstance(part, TextPart):
            tokens += len(processor.tokenizer.encode(processor.tokenizer.protect(part.text)))
        else:
            tokens += _image_tokens(processor, part, bounds)
    return {
        "source": attachment.source,
        "type": attachment.type,
        "sha256": attachment.sha256,
        "size_bytes": attachment.size_bytes,
        "tokens": tokens,
    }


def _image_tokens(processor: Processor, picture: ImagePart, bounds: TokenBounds | None) -> int:
    if processor.image is None:  # a model of text alone: the engine refuses the picture
        return 0
    height, width = picture.pixels.shape[:2]
    try:
        return processor.image.num_tokens(processor.image.plan(height, width, bounds))
    except InputError as error:
        raise InputError(f"{picture.source}: {error}", path=picture.source) from None
