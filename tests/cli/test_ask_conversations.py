"""`qwen ask` in a saved conversation: --chat new, --chat ID, -c."""

import json
from pathlib import Path

from tests.cli.conftest import Invoke

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"


def ask(invoke: Invoke, *words: object) -> dict[str, object]:
    result = invoke("ask", "--json", *words)
    assert result.code == 0, result.out + result.err
    return json.loads(result.out)  # type: ignore[no-any-return]


def test_a_conversation_goes_on_over_several_runs(invoke: Invoke) -> None:
    first = ask(invoke, "--chat", "new", SHAPES, "describe")
    second = ask(invoke, "-c", "How many shapes are there?")
    third = ask(invoke, "--chat", first["chat_id"], "Is there a star?")
    assert first["chat_id"] == second["chat_id"] == third["chat_id"]
    prompts = [answer["usage"]["prompt_tokens"] for answer in (first, second, third)]  # type: ignore[index]
    assert prompts[0] < prompts[1] < prompts[2]
    assert second["usage"]["image_tokens"] == 100  # type: ignore[index]
    assert second["usage"]["cached_tokens"] > 100  # type: ignore[index]
    shown = json.loads(invoke("chats", "show", first["chat_id"], "--json").out)
    texts = [(message["role"], message["text"]) for message in shown["messages"]]
    assert [role for role, _ in texts] == ["user", "assistant"] * 3
    assert texts[1][1] == first["answer"]
    assert texts[4][1] == "Is there a star?"


def test_a_plain_question_is_in_no_conversation(invoke: Invoke) -> None:
    assert ask(invoke, SHAPES, "describe")["chat_id"] is None
    assert json.loads(invoke("chats", "ls", "--json").out)["chats"] == []


def test_the_conversation_keeps_its_system_message_and_its_model(invoke: Invoke, model_folder: Path) -> None:
    ask(invoke, "--chat", "new", "-m", "mini-bf16", "-s", "Be brief.", SHAPES, "describe")
    second = ask(invoke, "-c", "describe")
    assert second["model"] == "mini-bf16"
    prompt = json.loads(invoke("ask", "-c", "--dry-run", "--json", "describe").out)["prompt"]
    assert prompt.startswith("<|im_start|>system\nBe brief.")
    assert ask(invoke, "-c", "-m", "mini", "describe")["model"] == "mini"


def test_what_cannot_be_gone_on_with(invoke: Invoke) -> None:
    result = invoke("ask", "-c", "more")
    assert (result.code, result.out) == (3, "")
    assert invoke("ask", "--chat", "nothere", "more").code == 3
    assert invoke("ask", "-c", "--chat", "x", "more").code == 2


def test_private_questions_are_not_kept(invoke: Invoke, home: Path) -> None:
    ask(invoke, "--private", "--chat", "new", SHAPES, "describe")
    assert not home.exists() or not [path for path in home.rglob("*") if path.is_file()]
