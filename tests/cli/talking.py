"""What was said in a saved conversation."""

import json
from typing import Any

from tests.cli.conftest import Invoke

PICTURE = "my picture.png"


def messages(invoke: Invoke, id: str = "last") -> list[dict[str, Any]]:
    """Those of the saved conversation, as it stands."""
    saved = json.loads(invoke("chats", "show", id, "--json").out)
    by_id = {message["id"]: message for message in saved["messages"]}
    return [by_id[number] for number in saved["path"]]


def texts(invoke: Invoke) -> list[str]:
    return [message["text"] for message in messages(invoke) if message["role"] == "user"]
