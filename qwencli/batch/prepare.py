"""One item from its name to the model's input: read, decoded, tokenised. Runs in worker threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qwen35.engine.engine import prepare
from qwen35.engine.request import Request
from qwen35.engine.windows import Windows
from qwen35.errors import DoesNotFit, InputError
from qwen35.messages import ImagePart, Message, Part, TextPart
from qwen35.processing.processor import ModelInput, Processor
from qwencli import runtime
from qwencli.batch.identity import Identity, Run
from qwencli.batch.items import Item
from qwencli.batch.openai_request import OpenAIRequest, Turn
from qwencli.batch.targets import Done
from qwencli.conversation import messages_of
from qwencli.media.attach import Attacher, Attachment
from qwencli.render.record import Record
from qwencli.settings import Settings
from qwencli.structured.finish import Finish
from qwencli.values import PageRanges
from qwencli.windows import WindowChoice, told_of

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(slots=True)
class Prepared:
    """An item as the model is asked about it; or the `error` that it ends with; or how it was done before.

    Mutable, as its record is.
    """

    item: Item
    record: Record
    request: Request | None = None
    prompt: ModelInput | None = None
    error: Exception | None = None
    done_as: Done | None = None
    finish: Finish = field(default_factory=Finish)  # what becomes of its answer
    windows: Windows | None = None  # then `request` and `prompt` are those of the first one

    @property
    def num_bytes(self) -> int:
        values = self.prompt.pixel_values if self.prompt else None
        return 0 if values is None else values.nbytes


@dataclass(frozen=True, slots=True)
class Preparer:
    """`find` says of an item's id and content how it was done before; `id_prefix`: of ids in the output."""

    processor: Processor
    settings: Settings
    pages: PageRanges | None
    model: str
    run: Run
    id_prefix: str
    find: Callable[[str, str], Done | None]
    finish: Finish = field(default_factory=Finish)
    windows: WindowChoice | None = None

    def prepare(self, item: Item) -> Prepared:
        """Never raises: what is wrong with an item is its own end, and not that of others."""
        content = item.content_hash()
        record = Record(Identity(self.run, content).id(self.id_prefix), item.id, self.model)
        prepared = Prepared(item, record)
        prepared.done_as = self.find(item.id, content)
        if prepared.done_as:
            return prepared
        try:
            if item.error:
                raise item.error
            prepared.finish = self._finish_of(item)
            prepared.request, prepared.prompt = self._prepare(item, prepared)
        except MemoryError:
            prepared.error = DoesNotFit(f"{item.id}: not enough memory for it.")
        except Exception as error:
            prepared.error = error
        return prepared

    def _finish_of(self, item: Item) -> Finish:
        """The command's own, or what the request asks for."""
        if item.request is None or item.request.schema is None:
            return self.finish
        from qwencli.structured.check import check_schema
        from qwencli.structured.form import Form

        try:
            check_schema(item.request.schema)
        except ValueError as error:
            raise InputError(f"{item.id}: the schema of its 'response_format' {error}") from None
        return replace(self.finish, form=Form.of_schema(item.request.schema))

    def _prepare(self, item: Item, prepared: Prepared) -> tuple[Request, ModelInput]:
        record = prepared.record
        sampling = runtime.sampling_of(self.settings)
        attacher = Attacher(self.pages, record.notes.append, lambda *progress: None, sampling=sampling)
        settings = self.settings
        if item.request:
            record.notes += item.request.notes
            settings = replace(settings, **item.request.settings)
            messages, attachments = _conversation(item.request, settings.system, attacher)
        else:
            attachments = attacher.attach_all(item.inputs) if item.inputs else []
            messages = messages_of(settings.system, attachments, item.prompt)
        prepared.finish = finish = prepared.finish.about(messages)
        messages = (*messages[:-1], finish.told(messages[-1]))

        def request_of(messages: tuple[Message, ...]) -> Request:
            request, record.attachments = runtime.plan(
                self.processor, settings, messages, attachments, record.notes.append, finish.form
            )
            return request

        if self.windows:
            self.windows.check(has_form=finish.form is not None)
            windows = self.windows.plan(self.processor, messages, request_of)
            record.attachments = told_of(record.attachments, windows)
            record.notes.append(f"{windows.clip.source}: {windows.line}")
            prepared.windows, request = windows, windows.request_of(0)
        else:
            request = request_of(messages)
        prompt = prepare(self.processor, request)
        if request.fault is None:  # else it may be asked again, about the same pictures
            request = replace(request, messages=_without_pixels(request.messages))
        return request, prompt


def _conversation(
    request: OpenAIRequest, system: str | None, attacher: Attacher
) -> tuple[tuple[Message, ...], list[Attachment]]:
    attachments: list[Attachment] = []

    def message_of(turn: Turn) -> Message:
        parts: list[Part] = []
        for piece in turn.pieces:
            if isinstance(piece, str):
                parts.append(TextPart(piece))
            else:
                found = attacher.attach_all([piece.spec])
                attachments.extend(found)
                parts.extend(part for attachment in found for part in attachment.parts)
        return Message(turn.role, tuple(parts))

    messages = tuple(message_of(turn) for turn in request.turns)
    if system and all(message.role != "system" for message in messages):
        messages = (Message.of_text("system", system), *messages)
    return messages, attachments


def _without_pixels(messages: Sequence[Message]) -> tuple[Message, ...]:
    """What the engine needs of messages whose pictures are in the prompt, too: none is held twice."""

    def light(part: Part) -> Part:
        return replace(part, pixels=_NO_PIXELS) if isinstance(part, ImagePart) else part

    return tuple(replace(message, parts=tuple(map(light, message.parts))) for message in messages)
