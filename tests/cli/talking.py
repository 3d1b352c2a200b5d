"""Chats without a keyboard, and what was said in them."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qwencli.chat.screen import Screen
from qwencli.chat.session import Session
from qwencli.conversations.store import Store
from qwencli.folders import Folders
from qwencli.render.aside import Verbosity
from qwencli.render.output import Output
from qwencli.settings import Settings
from tests.cli.conftest import Invoke

PICTURE = "my picture.png"


def messages(invoke: Invoke, id: str = "last") -> list[dict[str, Any]]:
    """Those of the saved conversation, as it stands."""
    saved = json.loads(invoke("chats", "show", id, "--json").out)
    by_id = {message["id"]: message for message in saved["messages"]}
    return [by_id[number] for number in saved["path"]]


def texts(invoke: Invoke) -> list[str]:
    return [message["text"] for message in messages(invoke) if message["role"] == "user"]


@contextmanager
def session_with_mini() -> Iterator[Session]:
    """A session of the built-in model without chance, in the home of the test."""
    folders = Folders.locate(os.environ)
    screen = Screen(Output(io.StringIO()), Verbosity.QUIET)
    with Store.open(folders.data, print) as store:
        session = Session(
            Settings(model="mini", temperature=0),
            folders,
            screen,
            store,
            pages=None,
            is_private=False,
            uses_cache=True,
        )
        session.open_model()
        try:
            yield session
        finally:
            session.close()
