"""One chat: its settings, model and conversation, and how a question goes through them."""

import gc
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from qwen35.errors import CheckpointError, InputError
from qwen35.events import Event, Finished, Note
from qwen35.messages import Message
from qwencli import runtime
from qwencli.chat.context import (
    CHOICES,
    NO_CHOICES,
    TOO_MUCH_ATTACHED,
    check_room,
    count_tokens,
    is_nearly_full,
    room_for_answer,
)
from qwencli.chat.idle import IdleWork
from qwencli.chat.model import ChatModel
from qwencli.chat.screen import Screen
from qwencli.chat.typed import Typed
from qwencli.conversation import messages_of, system_text
from qwencli.conversations.blobs import KeepingAttacher
from qwencli.conversations.records import StoredMessage
from qwencli.conversations.store import Store
from qwencli.folders import Folders
from qwencli.introduction import introduce
from qwencli.known_models import KnownModel, find_model, find_or_choose_model
from qwencli.media.attach import Attachment
from qwencli.media.source import collect
from qwencli.render.aside import Verbosity
from qwencli.render.record import Record
from qwencli.settings import Settings
from qwencli.structured.finish import Finish, complaint_of
from qwencli.values import PageRanges, Thinking

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine
    from qwen35.engine.request import Request
    from qwen35.processing.processor import ModelInput

_SUMMARISE = (
    "Sum up our conversation so far, so that it can go on from your summary alone: what was asked and "
    "answered, names, numbers, decisions, what the attachments show, and what is still open. Write the "
    "summary alone, briefly, in the language of the conversation."
)
_SUMMARY_TOKENS = 1024


class Session:
    """Mutable; the loop owns it. `settings.system` is the system message itself."""

    def __init__(
        self,
        settings: Settings,
        folders: Folders,
        screen: Screen,
        store: Store,
        *,
        pages: PageRanges | None,
        is_private: bool,
        uses_cache: bool,
    ) -> None:
        self.settings = replace(settings, system=system_text(settings.system))
        self.folders = folders
        self.screen = screen
        self.store = store
        self.conversation = store.begin()
        self.pending: list[Attachment] = []  # go with the next question
        self.draft = ""  # stands at the next prompt
        self.answered: list[Record] = []  # the answers of this run
        self._idle = IdleWork()
        self._told: set[str] = set()  # notes on the conversation, which each prompt would bring again
        self._is_full_told = False  # that the context is nearly full
        self.finish = Finish()  # what answers have to look like
        self._pages = pages
        self._is_private = is_private
        self._uses_cache = uses_cache
        self._model: ChatModel | None = None

    # The model

    @property
    def used_tokens(self) -> int:
        """Of the context, at the end of the last answer; 0 where that is not known."""
        if self.conversation.tip is None or self.conversation.tip.role == "compact":
            return 0
        usage = (self.conversation.last_answer.usage if self.conversation.last_answer else None) or {}
        return int(usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0))

    def context_limit(self) -> int:
        """Tokens of prompt and answer together. Waits for the model's small files."""
        limit = self.model.processor().config.text.max_position_embeddings
        return min(limit, self.settings.ctx or limit)

    @property
    def model(self) -> ChatModel:
        assert self._model is not None
        return self._model

    def open_model(self, known: KnownModel | None = None) -> None:
        """Begin to load this model, or the one of the settings. Raises CheckpointError."""
        known = known or find_or_choose_model(self.settings.model, self.folders, self.settings.ram)
        if self._model is not None:
            self.close()
            self._model = None
            gc.collect()  # its weights go before room is looked for: large ones would not fit beside it
        states = (
            runtime.states_of(self.settings, self.folders.states, is_private=self._is_private)
            if self._uses_cache
            else None
        )
        self._model = ChatModel(known, self.settings, self.folders.cache, states)
        if not self._is_private:
            introduce(known, self.folders, self.screen.note)

    def close(self) -> None:
        """Wait for what is being saved."""
        self._idle.stop()
        if self._model is not None:
            for note in self._model.close():
                self.screen.note(note)

    # The conversation

    def begin(self) -> None:
        """A new conversation; the present one stays saved."""
        self.conversation = self.store.begin()
        self.pending.clear()
        self._told.clear()
        self._is_full_told = False

    def resume(self, id: str, *, keeps_system: bool = False, keeps_model: bool = False) -> None:
        """Go on with a saved conversation, with its system message and its model. Raises InputError.

        `keeps_...`: with this run's own instead.
        """
        self.conversation = self.store.find(id)
        self._is_full_told = False
        if not keeps_system:
            self.settings = replace(self.settings, system=self.conversation.system)
        name = self.conversation.model
        if keeps_model or name is None or (self._model is not None and self._model.name == name):
            return
        try:
            known = find_model(name, self.folders)
        except CheckpointError:
            self.screen.note(
                f"{name}, the model of this conversation, is not here; another one goes on with it"
            )
            return
        self.settings = replace(self.settings, model=name)
        if self._model is not None:
            self.open_model(known)

    # Questions

    def attach(self, inputs: Sequence[str]) -> None:
        """What `inputs` name goes with the next question. Raises InputError or NetworkError."""
        for attachment in self._attach(inputs):
            self.add(attachment)

    def add(self, attachment: Attachment) -> None:
        self.pending.append(attachment)
        self.screen.say(f"attached {attachment.source} ({attachment.type}); it goes with the next question")

    def attach_bytes(self, name: str, data: bytes) -> None:
        """The bytes of a file without a path go with the next question. Raises InputError."""
        self.add(self._attacher().decode(collect(name, [data])))

    def attach_output(self, command: str, output: bytes) -> None:
        """What a command wrote goes with the next question. Raises InputError."""
        self.add(self._attacher().attach_output(command, output))

    def detach(self, number: int | None = None) -> list[Attachment]:
        """Take off what waits for the next question: all of it, or the one of that number, counted from 1."""
        if number is None:
            taken, self.pending = self.pending, []
        else:
            taken = [self.pending.pop(number - 1)]
        return taken

    def take(self, line: str) -> None:
        """Ask what was typed; files alone wait for the question. What is refused stays as the draft."""
        self.draft = line
        typed = Typed.parse(line)
        for word in typed.unknown:
            self.screen.note(f"{word}: no such file; it stays in the text")
        if typed.text:
            attachments = self._attach(typed.inputs)
            for attachment in attachments:
                self.screen.say(f"attached {attachment.source} ({attachment.type})")
            self.ask(typed.text, [*self.pending, *attachments])
        else:
            self.attach(typed.inputs)
        self.draft = ""

    def ask(self, text: str, attachments: Sequence[Attachment] = ()) -> None:
        """Put a question and show its answer. Raises NoRoom, and InputError; then it was not asked."""
        question = messages_of(None, attachments, text)[-1]
        past = self.conversation.messages(self.settings.system)
        choices = CHOICES if self.conversation.num_turns else NO_CHOICES
        request, prompt, described = self._prepare((*past, question), attachments, choices=choices)
        engine = self._engine(goes_on=True)
        self.conversation.ask(text, attachments, self.settings, self._pages)
        self.draft = ""
        self.pending.clear()
        self._answer(engine, request, prompt, described)

    def ask_again(self, question: StoredMessage) -> None:
        """Another answer to the last question, as a branch."""
        before = self.conversation.path
        self.conversation.rewind_to(question)
        try:
            request, prompt, described = self._prepare(
                self.conversation.messages(self.settings.system),
                choices=CHOICES if self.conversation.num_turns > 1 else NO_CHOICES,
            )
            engine = self._engine(goes_on=False)
        except BaseException:
            self.conversation.go_to(before)
            raise
        self._answer(engine, request, prompt, described)

    def edit(self, question: StoredMessage, text: str) -> None:
        """A question in other words, as a branch, with its attachments."""
        before = self.conversation.path
        attachments = [*self.conversation.attachments_of(question), *self.pending]
        index = before.index(question)
        self.conversation.rewind_to(before[index - 1] if index else None)
        try:
            self.ask(text, attachments)
        except BaseException:
            if len(self.conversation.path) <= index:  # it was not asked
                self.conversation.go_to(before)
            raise

    def summarise(self, num_kept: int) -> list[StoredMessage]:
        """Let the model sum up all turns but the last ones; then it sees its summary in their place.

        Returns the messages left out. What is stopped or fails changes nothing. Raises NoRoom, InputError.
        """
        chat = self.conversation
        messages = chat.messages(self.settings.system, chat.num_before(num_kept))
        # Thoughts would take the summary's room, and a stop string may cut it anywhere.
        settings = replace(self.settings, think=Thinking(False), max_tokens=_SUMMARY_TOKENS, stop=())
        request, prompt, described = self._prepare(
            (*messages, Message.of_text("user", _SUMMARISE)),
            settings=settings,
            choices="/compact without a summary leaves them out",
        )
        engine = self._engine(goes_on=True)
        try:
            record = self._stream(engine, request, prompt, described, lambda event: None)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; nothing was left out") from None
        if not record.answer:
            raise InputError("The model wrote no summary, and nothing was left out. /compact needs none.")
        if record.finish_reason == "length":
            self.screen.note(f"the summary was cut after {record.usage.completion_tokens:,} tokens")
        return chat.compact(
            num_kept,
            record.answer,
            model=self.model.name,
            usage=asdict(record.usage),
            timings=asdict(record.timings),
            finish_reason=record.finish_reason,
        )

    def _prepare(
        self,
        messages: tuple[Message, ...],
        attachments: Sequence[Attachment] = (),
        *,
        choices: str,
        settings: Settings | None = None,
    ) -> "tuple[Request, ModelInput, list[dict[str, Any]]]":
        """The prompt of these messages. Raises NoRoom, with the `choices` there are, and InputError."""
        processor = self.model.processor()
        finish = Finish() if settings else self.finish
        messages = (*messages[:-1], finish.told(messages[-1]))
        request, described = runtime.plan(
            processor, settings or self.settings, messages, attachments, self.screen.note, finish.form
        )
        prompt = processor.prepare(
            request.messages, enable_thinking=request.thinking, image_bounds=request.image_bounds
        )
        limit = self.context_limit()
        if attachments:
            attached = Message("user", tuple(part for one in attachments for part in one.parts))
            num_attached = count_tokens(processor, attached, request.image_bounds)
            if num_attached + room_for_answer(limit, request.max_tokens) > limit:
                choices = TOO_MUCH_ATTACHED
        check_room(len(prompt.ids), limit, request.max_tokens, choices)
        return request, prompt, described

    def begin_idle(self) -> None:
        """Prefill what was said last, while nobody asks: its state then lies ready for the next question."""
        answer = self.conversation.last_answer
        if answer is None or not self._uses_cache:
            return
        messages = self.conversation.messages(self.settings.system)
        model, settings = self.model, self.settings

        def make() -> "tuple[Engine, Request]":
            request, _ = runtime.plan(model.processor(), settings, messages, (), lambda text: None)
            return model.engine(lambda done, total: None), request

        self._idle.begin(lambda: model.is_loading, make)

    def _engine(self, *, goes_on: bool) -> "Engine":
        """Waits for the model, and tells how far it is. `goes_on`: with the conversation as it stood."""
        progress = self.screen.aside.progress
        try:
            engine = self.model.engine(
                lambda done, total: progress.update(f"loading {self.model.name}", done, total, "bytes")
            )
            if goes_on:
                progress.update("reading the conversation", 0, 0, "tokens")
                self._idle.finish()
            else:
                self._idle.stop()
            return engine
        finally:
            progress.end()
            for note in self.model.take_notes():
                self.screen.note(note)

    def _answer(
        self, engine: "Engine", request: "Request", prompt: "ModelInput", described: list[dict[str, Any]]
    ) -> None:
        """Show the answer, and save it as it comes."""
        try:
            with self.conversation.answering(self.model.name) as answer:
                record = self._stream(engine, request, prompt, described, answer.take)
        except KeyboardInterrupt:
            goes_on = "/continue goes on, " if answer.message else ""
            raise KeyboardInterrupt(f"stopped; {goes_on}/retry asks again") from None
        if answer.trouble:
            self.screen.note(f"this answer is not saved whole: {answer.trouble}")
        if self.screen.folds_reasoning and record.usage.reasoning_tokens:
            self.screen.say(f"(thought for {record.usage.reasoning_tokens:,} tokens; /show thinking)")
        if record.finish_reason == "length":
            self._tell_cut(record)
        elif record.is_incomplete:
            self.screen.note(complaint_of(record) or "")
        else:
            self._tell_nearly_full()

    def _stream(
        self,
        engine: "Engine",
        request: "Request",
        prompt: "ModelInput",
        described: list[dict[str, Any]],
        keep: Callable[[Event], None],
    ) -> Record:
        """Show what the model writes; `keep` gets each event, too."""
        record = Record(model=self.model.name, backend=engine.backend_name, attachments=described)
        record.load_s = self.model.load_s
        with (
            self.screen.answering(is_markdown=request.grammar is None) as (renderer, aside),
            closing(engine.generate(request, prompt)) as events,
        ):
            aside.progress.update(
                "looking at the pictures" if prompt.media else "reading the prompt", 0, 0, "tokens"
            )
            for event in events:
                if isinstance(event, Note) and event.text in self._told:
                    continue  # the same picture, looked at again
                if isinstance(event, Note):
                    self._told.add(event.text)
                record.take(event)
                keep(event)
                renderer.show(event)
                if isinstance(event, Finished) and request.grammar:
                    self.finish.settle(record)
        self.answered.append(record)
        if self.screen.verbosity is Verbosity.VERBOSE:
            self.screen.aside.figures(record.figures())
        self.screen.end_answer()
        return record

    def _tell_cut(self, record: Record) -> None:
        count = record.usage.completion_tokens
        if self.settings.max_tokens is not None and count >= self.settings.max_tokens:
            self.screen.note(f"cut after {count:,} tokens (max-tokens); /continue goes on")
        else:
            self.screen.note(
                f"cut after {count:,} tokens: the context is full. {CHOICES}; then /continue goes on"
            )

    def _tell_nearly_full(self) -> None:
        """Once, until there is room again."""
        limit = self.context_limit()
        was_told, self._is_full_told = self._is_full_told, is_nearly_full(self.used_tokens, limit)
        if self._is_full_told and not was_told:
            self.screen.note(
                f"the context is nearly full: {self.used_tokens:,} of {limit:,} tokens. {CHOICES}"
            )

    def _attach(self, inputs: Sequence[str]) -> list[Attachment]:
        if "-" in inputs:
            raise InputError("'-' (standard input) holds the conversation itself, and cannot be attached.")
        if not inputs:
            return []
        with self.screen.aside.progress:
            return self._attacher().attach_all(inputs)

    def _attacher(self) -> KeepingAttacher:
        return self.store.attacher(
            self._pages,
            self.screen.note,
            self.screen.aside.progress.update,
            runtime.sampling_of(self.settings),
        )
