"""The chat itself: read a line, do it, until there are no more."""

from typing import Protocol

from qwen35.errors import Qwen35Error
from qwencli.chat.commands.table import Leave, handle
from qwencli.chat.session import Session
from qwencli.chat.stops import Stops
from qwencli.errors import OutputError, ReaderGone

_NO_MEMORY = "Not enough memory for this. Close other programs, or take a smaller /model."


class Reader(Protocol):
    is_interactive: bool

    def read(self, draft: str) -> str | None:
        """The next line or message; None at the end. `draft` stands there to be changed."""


def run(session: Session, reader: Reader) -> None:
    """Until the end of the input, or /quit.

    A person is told of an error and goes on; a script of lines ends with it, since what follows would be
    asked of a conversation that is not the one meant.
    """
    if not reader.is_interactive:
        while (line := reader.read("")) is not None:
            try:
                handle(session, line)
            except Leave:
                return
        return
    idle_at = None  # where the conversation stood when idle work was begun last
    with Stops() as stops:
        while True:
            is_reading = True
            try:
                if (tip := session.conversation.tip) is not idle_at:
                    idle_at = tip
                    session.begin_idle()
                line = reader.read(_take_draft(session))
                if line is None:
                    return
                is_reading = False
                with stops.armed():
                    handle(session, line)
            except Leave:
                return
            except KeyboardInterrupt as stop:
                if stops.is_ended:
                    raise
                session.screen.say("Ctrl-D leaves" if is_reading else str(stop) or "stopped")
            except (OutputError, ReaderGone):
                raise
            except Qwen35Error as error:
                session.screen.complain(str(error))
            except MemoryError:
                session.screen.complain(_NO_MEMORY)


def _take_draft(session: Session) -> str:
    draft, session.draft = session.draft, ""
    return draft
