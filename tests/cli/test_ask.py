"""`qwen ask` on a real, tiny model: standard output, standard error and exit code."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Invoke
from tests.serving import serve


@pytest.fixture
def picture(home: Path) -> Path:
    path = home.parent / "here" / "shapes.png"
    Image.new("RGB", (200, 150), "red").save(path)
    return path


@pytest.mark.parametrize(
    ("words", "pair"),
    [
        (("-v", "-q"), "-q and -v"),
        (("--json", "--jsonl"), "--json and --jsonl"),
        (("-c", "--chat", "new"), "-c and --chat"),
    ],
)
def test_what_excludes_each_other_is_named_alone(invoke: Invoke, words: tuple[str, ...], pair: str) -> None:
    result = invoke("ask", "hello", *words)
    assert result.code == 2
    assert f"Of {pair}, only one can be given." in result.out + result.err


def test_a_misspelt_variable_is_told(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_MAXTOKENS", "3")
    result = invoke("ask", "-m", model_folder, "hello", "--dry-run", "--json")
    told = "the environment variable QWEN_MAXTOKENS is not read; did you mean QWEN_MAX_TOKENS?"
    assert (json.loads(result.out)["notes"], result.err) == ([told], f"note: {told}\n")
    assert told in invoke("chat", "-m", model_folder, input=b"").err


def test_the_answer_is_the_same_in_every_form(invoke: Invoke, model_folder: Path, picture: Path) -> None:
    question = ("ask", "-m", model_folder, picture, "describe", "--seed", 3, "--max-tokens", 12)
    plain = invoke(*question)
    answer = json.loads(invoke(*question, "--json").out)["answer"]
    lines = [json.loads(line) for line in invoke(*question, "--jsonl").out.splitlines()]
    assert plain.out.rstrip("\n") == answer.rstrip("\n")
    assert plain.out.endswith("\n")
    assert "".join(line["text"] for line in lines if line["type"] == "text") == answer
    assert (lines[-1]["type"], lines[-1]["answer"]) == ("result", answer)


def test_an_answer_cut_by_max_tokens_exits_with_7_and_says_so(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("ask", "-m", model_folder, "hello", "--max-tokens", 2, "--seed", 1)
    assert result.code == 7
    assert result.err == "note: the answer was cut after 2 tokens; see --max-tokens and --ctx\n"


def test_json_tells_what_was_attached_and_counted(
    invoke: Invoke, model_folder: Path, picture: Path, home: Path
) -> None:
    (home.parent / "here" / "notes.txt").write_text("abc")
    result = invoke("ask", "-m", model_folder, picture, "notes.txt", "describe", "--max-tokens", 1, "--json")
    record = json.loads(result.out)
    image, text = record["attachments"]
    assert (image["type"], image["source"], image["tokens"]) == ("image", str(picture), 30)
    assert (text["type"], text["tokens"]) == ("text", len("File notes.txt:\n\nabc\n\n"))
    assert record["usage"]["image_tokens"] == 30
    assert record["usage"]["prompt_tokens"] > 30
    assert record["usage"]["completion_tokens"] == 1
    assert (record["model"], record["error"], record["finish_reason"]) == (str(model_folder), None, "length")


def test_a_picture_may_come_from_the_web(
    invoke: Invoke, model_folder: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as site:  # the working folder
        url = f"{site}{picture.name}"
        here = invoke("ask", "-m", model_folder, picture, "describe", "--dry-run", "--json")
        there = invoke("ask", "-m", model_folder, url, "describe", "--dry-run", "--json")
    (local,), (remote,) = (json.loads(result.out)["attachments"] for result in (here, there))
    assert remote == local | {"source": url}


def test_the_same_seed_gives_the_same_answer_and_another_one_another(
    invoke: Invoke, model_folder: Path
) -> None:
    def answer(*options: object) -> str:
        return invoke("ask", "-m", model_folder, "hello", "--max-tokens", 8, *options).out

    assert answer("--seed", 1) == answer("--seed", 1) != answer("--seed", 2)
    assert answer("--temperature", 0) == answer("--temperature", 0, "--seed", 5)


def test_every_option_reaches_the_request(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen35.engine.engine import Engine
    from qwen35.engine.request import Request, SamplingOverrides
    from qwen35.messages import Message
    from qwen35.processing.image import TokenBounds

    asked: list[Request] = []
    monkeypatch.setattr(Engine, "generate", lambda self, request, _: asked.append(request) or (e for e in ()))
    invoke(
        *("ask", "-m", model_folder, "hello", "-s", "be brief", "--think", 9, "--max-tokens", 5),
        *("--temperature", 0.5, "--top-p", 0.8, "--top-k", 7, "--min-p", 0.1, "--presence-penalty", 1),
        *("--repetition-penalty", 1.1, "--stop", "a", "--stop", "b", "--seed", 2, "--ctx", 300),
        *("--image-tokens", "5:9", "--loops", "ignore", "--logprobs", "--json"),
    )
    assert asked == [
        Request(
            messages=(Message.of_text("system", "be brief"), Message.of_text("user", "hello")),
            thinking=True,
            thinking_budget=9,
            sampling=SamplingOverrides(0.5, 0.8, 7, 0.1, 1.0, 1.1),
            max_tokens=5,
            stop=("a", "b"),
            seed=2,
            image_bounds=TokenBounds(5, 9),
            max_context=300,
            logprobs=True,
            ends_loops=False,
        )
    ]


def test_device_and_threads_reach_the_loader(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen35.engine import load

    asked: dict = {}

    def load_engine(folder: Path, **options: object) -> None:
        asked.update(options, folder=folder)
        raise MemoryError

    monkeypatch.setattr(load, "load_engine", load_engine)
    result = invoke("ask", "-m", model_folder, "hello", "--device", "cpu", "--threads", 1)
    assert (asked["folder"], asked["device"], asked["num_threads"]) == (model_folder, "cpu", 1)
    assert (result.code, result.err.count("\n")) == (5, 1)


def test_a_setting_may_come_from_the_environment_or_the_file(
    invoke: Invoke, model_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text(f"model = '{model_folder}'\nmax_tokens = 9\n")
    monkeypatch.setenv("QWEN_MAX_TOKENS", "2")
    record = json.loads(invoke("ask", "hello", "--json").out)
    assert record["model"] == str(model_folder)
    assert record["usage"]["completion_tokens"] == 2


def test_a_system_message_may_lie_in_a_file(invoke: Invoke, model_folder: Path, home: Path) -> None:
    (home.parent / "here" / "rules.txt").write_text("Answer in rhymes.")
    result = invoke("ask", "-m", model_folder, "--dry-run", "hello", "-s", "@rules.txt")
    assert "<|im_start|>system\nAnswer in rhymes.<|im_end|>" in result.out
    missing = invoke("ask", "-m", model_folder, "--dry-run", "hello", "-s", "@none.txt")
    assert (missing.code, missing.out) == (3, "")
    assert missing.err == "error: none.txt: the system message cannot be read (No such file or directory).\n"


def test_a_dry_run_shows_the_prompt_and_its_tokens(invoke: Invoke, model_folder: Path, picture: Path) -> None:
    result = invoke("ask", "-m", model_folder, picture, "describe", "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert "<|vision_start|><|image_pad|><|vision_end|>describe<|im_end|>" in result.out
    assert result.out.splitlines()[-2:] == [
        f"      30 tokens  image  {picture}",
        "      65 tokens  in all",
    ]
    record = json.loads(invoke("ask", "-m", model_folder, picture, "describe", "--dry-run", "--json").out)
    assert record["prompt"].startswith("<|im_start|>user\n<|vision_start|>")
    assert (record["usage"]["prompt_tokens"], record["usage"]["image_tokens"]) == (65, 30)
    assert (record["answer"], record["finish_reason"]) == (None, None)


def test_a_dry_run_says_what_does_not_fit(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("ask", "-m", model_folder, "hello", "--dry-run", "--ctx", 30)
    assert result.code == 0
    assert result.err == "note: this does not fit: 30 tokens, and the context holds 30\n"


@pytest.mark.parametrize(("option", "tokens"), [("model", 64), ("16", 16), ("4:9", 9)])
def test_image_tokens_bound_a_picture(
    invoke: Invoke, model_folder: Path, home: Path, option: str, tokens: int
) -> None:
    Image.new("RGB", (1000, 1000)).save("large.png")
    arguments = ("ask", "-m", model_folder, "large.png", "describe", "--dry-run", "--json")
    record = json.loads(invoke(*arguments, "--image-tokens", option).out)
    assert record["usage"]["image_tokens"] == tokens


def test_pictures_are_capped_on_a_cpu_with_one_note(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwencli.runtime.CPU_IMAGE_TOKENS", 16)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (1000, 1000)).save(name)
    Image.new("RGB", (64, 64)).save("small.png")
    arguments = ("ask", "-m", model_folder, "--dry-run", "--json", "a.png", "b.png", "small.png", "describe")
    record = json.loads(invoke(*arguments).out)
    assert [item["tokens"] for item in record["attachments"]] == [16, 16, 4]
    assert record["notes"][0] == (
        "2 pictures are capped at 16 of up to 64 tokens to save time on the CPU; "
        "--image-tokens model takes all"
    )
    uncapped = json.loads(invoke(*arguments, "--image-tokens", "model").out)
    assert [item["tokens"] for item in uncapped["attachments"]] == [64, 64, 4]
    assert not any("capped" in note for note in uncapped["notes"])
    assert json.loads(invoke(*arguments, "--device", "cuda").out)["usage"]["image_tokens"] == 132


def test_beside_a_gpu_pictures_of_a_packed_model_are_capped_all_the_same(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on the kernels for CPUs unless it is told otherwise."""
    monkeypatch.setattr("qwencli.runtime._may_have_cuda", lambda: True)
    monkeypatch.setattr("qwencli.runtime.CPU_IMAGE_TOKENS", 16)
    Image.new("RGB", (1000, 1000)).save("a.png")
    assert invoke("models", "pack", model_folder, "-o", "packed").code == 0
    tokens = {}
    for model in (model_folder, "packed"):
        record = json.loads(invoke("ask", "-m", model, "--dry-run", "--json", "a.png", "describe").out)
        tokens[model] = record["usage"]["image_tokens"]
    assert tokens == {model_folder: 64, "packed": 16}


def test_quiet_leaves_nothing_but_the_answer(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("ask", "-m", model_folder, "hello", "--max-tokens", 2, "--temperature", 0, "-q")
    assert (result.code, result.err) == (7, "")


def test_verbose_adds_counts_and_timings(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("ask", "-m", model_folder, "hello", "--max-tokens", 2, "-v")
    assert f"model   {model_folder}, loaded in " in result.err
    assert "prompt  30 tokens, " in result.err
    assert "answer  2 tokens, " in result.err


def test_the_built_in_model_is_introduced_once(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwencli.known_models.built_in_folder", lambda name="mini": model_folder)
    first, second = (json.loads(invoke("ask", "hello", "--max-tokens", 1, "--json").out) for _ in range(2))
    assert first["model"] == "mini"
    assert first["notes"][0].startswith("mini is a small built-in model")
    assert not any("built-in" in note for note in second["notes"])


def test_a_read_only_home_hinders_nothing(
    invoke: Invoke, model_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("a file where the folders should be")
    monkeypatch.setattr("qwencli.known_models.built_in_folder", lambda name="mini": model_folder)
    assert invoke("ask", "hello", "--max-tokens", 1).code == 7
