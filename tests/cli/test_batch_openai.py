"""Files of OpenAI's Batch API, in and out; what goes out is read by the `openai` package's own types."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from qwen35.errors import InputError
from qwencli.batch.openai_request import InputPiece, OpenAIRequest
from qwencli.values import Thinking
from tests.cli.batches import QUICK, draw, records
from tests.cli.conftest import Invoke
from tests.media.clips import counter, encode
from tests.serving import serve

QUESTION = {"type": "text", "text": "how many shapes?"}


def request(id: str, *parts: dict[str, Any], **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [*parts, QUESTION]}]
    return {
        "custom_id": id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": messages} | body,
    }


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}


@pytest.fixture
def site(home: Path) -> Iterator[str]:
    """The working folder as a site of the web."""

    with serve() as url:
        yield url


def test_a_batch_file_goes_round(invoke: Invoke, site: str) -> None:
    (path,) = draw(Path("scans"), 1)
    data = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    encode(Path("clip.mp4"), (counter(number, 64, 64) for number in range(4)))
    requests = [
        request("by data", picture(data)),
        request("by path", picture(str(path))),
        request("by file", picture(path.absolute().as_uri())),
        request("by url", picture(f"{site}{path}")),
        request("clip", {"type": "video_url", "video_url": {"url": "clip.mp4"}}, max_tokens=2),
        request("gone", picture("gone.png")),
        request("many", n=4),
        {"custom_id": "vector", "url": "/v1/embeddings", "body": {"input": "x"}},
    ]
    Path("in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in requests))
    words = ("batch", "in.jsonl", "-o", "out.jsonl", "--format", "openai", *QUICK)
    result = invoke(*words)
    assert result.code == 6
    assert "the requests name gpt-4o-mini; -m says which model answers" in result.err
    lines = {line["custom_id"]: line for line in map(json.loads, Path("out.jsonl").read_text().splitlines())}
    assert len({line["id"] for line in lines.values()}) == len(requests)
    answers = {}
    for id, line in lines.items():
        assert set(line) == {"id", "custom_id", "response", "error"}
        if line["error"] is None:
            assert line["response"]["status_code"] == 200
            completion = ChatCompletion.model_validate(line["response"]["body"], strict=True)
            assert completion.model == "mini"
            assert completion.usage is not None
            assert completion.usage.total_tokens == (
                completion.usage.prompt_tokens + completion.usage.completion_tokens
            )
            (choice,) = completion.choices
            answers[id] = choice.message.content
            assert choice.finish_reason == ("length" if id == "clip" else "stop")
    asked = invoke("ask", path, "how many shapes?", *QUICK).out.strip()
    assert {id: text for id, text in answers.items() if id != "clip"} == dict.fromkeys(
        ("by data", "by path", "by file", "by url"), asked
    )
    errors = {id: line["error"] for id, line in lines.items() if line["error"]}
    assert errors["gone"] == {"code": "input", "message": "gone.png: no such file."}
    assert "in.jsonl, line 7: 'n' is not supported" in errors["many"]["message"]
    assert "in.jsonl, line 8: 'url' is '/v1/embeddings'" in errors["vector"]["message"]
    assert "8 were done before (of them 3 failed, 1 incomplete)" in invoke(*words).err


def test_requests_may_be_answered_in_our_own_form_with_a_system_message(invoke: Invoke, home: Path) -> None:
    Path("in.jsonl").write_text(json.dumps(request("a", mystery=1, model=None)) + "\n")
    result = invoke("batch", "in.jsonl", "-o", "out.jsonl", "-s", "Be brief.", *QUICK)
    assert "the requests name" not in result.err
    line = records(Path("out.jsonl"))["a"]
    assert line["notes"][0] == "'mystery': not known here, without effect"
    shown = invoke("batch", "in.jsonl", "-s", "Be brief.", "--dry-run", *QUICK).out
    assert shown.index("Be brief.") < shown.index("how many shapes?")


def test_a_schema_of_a_request_is_followed(invoke: Invoke, home: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [3, 4]}}, "required": ["n"]}

    def form(schema: Any) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}

    lines = [request("a", response_format=form(schema)), request("b", response_format=form({"type": 3}))]
    Path("in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    invoke("batch", "in.jsonl", "-o", "out.jsonl", "-m", "mini", "--temperature", "0", "--max-tokens", "60")
    found = records(Path("out.jsonl"))
    assert found["a"]["data"]["n"] in (3, 4)
    assert json.loads(found["a"]["answer"]) == found["a"]["data"]
    assert "b: the schema of its 'response_format' is no valid JSON Schema" in found["b"]["error"]["message"]


def test_a_request_that_cannot_be_asked_keeps_its_id_and_is_mended(invoke: Invoke, home: Path) -> None:
    def answer(**body: Any) -> list[dict[str, Any]]:
        Path("in.jsonl").write_text(json.dumps(request("mine", **body)) + "\n")
        invoke("batch", "in.jsonl", "-o", "out.jsonl", "--format", "openai", *QUICK)
        return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]

    (line,) = answer(tools=[{"type": "function"}])
    assert line["custom_id"] == "mine"
    assert "in.jsonl, line 1: 'tools' is not supported" in line["error"]["message"]
    (line,) = answer()
    assert (line["custom_id"], line["error"]) == ("mine", None)


def test_a_question_beside_requests_is_told_line_by_line(invoke: Invoke, home: Path) -> None:
    Path("in.jsonl").write_text(json.dumps(request("a")) + "\n")
    result = invoke("batch", "in.jsonl", "describe", "-o", "out.jsonl", *QUICK)
    assert result.code == 6
    assert "in.jsonl, line 1: is an OpenAI Batch request, which has a question already" in result.err


def test_a_request_says_what_it_sets() -> None:
    body = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [picture("file:///a%20b.png"), QUESTION]},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:,x"}}, QUESTION]},
        ],
        "max_completion_tokens": 9,
        "temperature": 0,
        "seed": 3,
        "stop": "END",
        "reasoning_effort": "none",
        "n": 1,
        "tools": [],
    }
    parsed = OpenAIRequest.from_dict({"custom_id": "a", "body": body})
    assert [turn.role for turn in parsed.turns] == ["system", "user", "assistant", "user"]
    assert parsed.turns[1].pieces == (InputPiece("/a b.png"), "how many shapes?")
    assert parsed.inputs == ["/a b.png", "data:,x"]
    assert parsed.settings == {
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 3,
        "stop": ("END",),
        "think": Thinking(False),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": []}, "'body' has no 'messages'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1: its 'role' is none of"),
        ({"messages": [{"role": "user"}]}, "message 1: 'content' is neither text nor a list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "type 'input_audio' are not",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "without its content"),
        ({"temperature": "hot"}, "'temperature': 'hot' is not a number"),
        ({"stop": 3}, "'stop' is neither"),
        ({"response_format": {"type": "json_schema"}}, "'response_format' is none of text, json_object"),
        ({"tools": [{"type": "function"}]}, "'tools' is not supported"),
        ({"messages": [{"role": "user", "content": [picture("")]}]}, "type 'image_url' is empty"),
        ({"messages": [{"role": "user", "content": [picture("file://")]}]}, "type 'image_url' is empty"),
        ({"messages": [{"role": "user", "content": [picture("-")]}]}, "is standard input, which cannot"),
        ({"max_tokens": 5.5}, "'5.5' is not a whole number"),
        ({"top_k": -2}, "'-2' is not a whole number"),
    ],
)
def test_what_a_request_cannot_ask_for_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OpenAIRequest.from_dict(request("a", **change))


def test_values_of_vllm_are_understood() -> None:
    line = request("a", top_k=-1, seed=-5, max_tokens=5.0, temperature=1)
    settings = OpenAIRequest.from_dict(line).settings
    assert settings == {"top_k": 0, "seed": (1 << 64) - 5, "max_tokens": 5, "temperature": 1.0}


def test_a_line_without_a_body_is_named() -> None:
    with pytest.raises(InputError, match="'body' is missing"):
        OpenAIRequest.from_dict({"custom_id": "a", "body": 3})
