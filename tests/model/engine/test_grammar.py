"""Constraints, and answers under them: scripted token streams with and without thinking, one row and many."""

import json
import random
import signal

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from qwen35.engine.batching import Item, answer_all
from qwen35.engine.engine import Engine
from qwen35.engine.grammar import Constraint, Grammars, grammar_error
from qwen35.engine.request import Grammar, Request, SamplingOverrides
from qwen35.errors import InputError
from qwen35.events import Finished, ReasoningDelta, TextDelta
from qwen35.messages import Message
from qwen35.processing.processor import Processor
from qwen35.processing.tokenizer import Tokenizer
from tests.model.checkpoint import byte_tokenizer
from tests.model.engine.scripted import MINI, engine_of

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GRAMMAR = Grammar("json_schema", json.dumps(PERSON))
GOOD = '{"name": "Zoë", "age": 7}'


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.from_folder(MINI)


def request(**options: object) -> Request:
    message = Message.of_text("user", "who?")
    wanted = {"sampling": SamplingOverrides(temperature=0.0), "thinking": False, "grammar": GRAMMAR}
    return Request((message,), **(wanted | options))


def run(engine: Engine, wanted: Request) -> tuple[str, str, Finished]:
    """The answer and the reasoning as they came, and the end."""
    *events, finished = engine.generate(wanted)
    assert isinstance(finished, Finished)
    answer = "".join(event.text for event in events if isinstance(event, TextDelta))
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert (answer, reasoning) == (finished.answer, finished.reasoning)
    return answer, reasoning, finished


@pytest.mark.parametrize("grammar", [None, GRAMMAR], ids=["free", "schema"])
@pytest.mark.parametrize(
    ("thinking", "said", "thought"),
    [
        (False, GOOD, ""),
        (True, f"{{so}} it is\n</think>\n\n{GOOD}", "{so} it is"),
        (True, f"never </think>{GOOD}", "never "),  # without the template's empty line
    ],
)
def test_a_grammar_counts_in_the_answer_alone(
    processor: Processor, grammar: Grammar | None, thinking: bool, said: str, thought: str
) -> None:
    engine, _ = engine_of(processor, said)
    answer, reasoning, finished = run(engine, request(thinking=thinking, grammar=grammar))
    assert (answer, reasoning, finished.reason) == (GOOD, thought, "stop")


def test_what_the_grammar_forbids_is_not_said(processor: Processor) -> None:
    said = 'Sure! {"name": "Zoë", "sex": "f", "age": 7, "x": 1} Bye.'
    engine, _ = engine_of(processor, said)
    answer = run(engine, request(max_tokens=60))[0]
    assert answer.startswith('{"name": "')
    engine, _ = engine_of(processor, said)
    assert run(engine, request(grammar=None, max_tokens=60))[0] == said


def test_an_end_within_thoughts_closes_them_and_the_answer_follows(processor: Processor) -> None:
    engine, _ = engine_of(processor, "hm<|im_end|>ok")
    _, reasoning, finished = run(engine, request(thinking=True, grammar=None))
    assert (reasoning, finished.reason) == ("hm", "stop")
    assert finished.answer.endswith("ok")


def test_a_budget_closes_the_thoughts_and_arms_the_grammar(processor: Processor) -> None:
    engine, _ = engine_of(processor, "x" * 500)
    _, reasoning, finished = run(engine, request(thinking=True, thinking_budget=5, max_tokens=60))
    assert len(reasoning) <= 6
    assert finished.answer.startswith('{"name": "x')
    assert finished.reason == "length"


def test_thoughts_leave_the_answer_a_quarter_of_the_tokens(processor: Processor) -> None:
    engine, _ = engine_of(processor, "x y " * 500)
    finished = run(engine, request(thinking=True, max_tokens=200, grammar=None))[2]
    assert 140 < finished.usage.reasoning_tokens < 160
    assert (finished.usage.completion_tokens, finished.reason) == (200, "length")


def test_a_cut_answer_is_kept_as_it_is(processor: Processor) -> None:
    engine, _ = engine_of(processor, GOOD)
    whole = run(engine, request())[2]
    answer, _, finished = run(engine, request(max_tokens=whole.usage.completion_tokens - 1))
    assert finished.reason == "length"
    assert GOOD.startswith(answer)
    assert answer != GOOD


def test_a_stop_string_within_an_answer_leaves_it_incomplete(processor: Processor) -> None:
    engine, _ = engine_of(processor, GOOD)
    answer, _, finished = run(engine, request(stop=("Zo",)))
    assert (answer, finished.reason) == ('{"name": "', "schema")


def test_forced_tokens_take_one_pass_and_no_end_is_asked_for(processor: Processor) -> None:
    engine, backend = engine_of(processor, GOOD)
    finished = run(engine, request())[2]
    num_drawn = len(processor.tokenizer.encode('Zoë"')) + len(processor.tokenizer.encode("7}"))
    assert backend.calls <= 1 + 2 + num_drawn  # the prompt, two stretches that are forced, what is drawn
    assert finished.usage.completion_tokens == len(finished.token_ids) > backend.calls


def test_rows_of_a_batch_have_each_its_own_schema(processor: Processor) -> None:
    engine, _ = engine_of(processor, GOOD)
    wanted = {
        "person": request(),
        "number": request(grammar=Grammar("json_schema", '{"enum": [12, 13]}')),
        "word": request(grammar=Grammar("regex", "yes|no")),
        "free": request(grammar=None),
    }
    alone = {key: run(engine, one)[0] for key, one in wanted.items()}
    items = [Item(key, one) for key, one in wanted.items()]
    together = {
        key: event.answer for key, event in answer_all(engine, items, 3) if isinstance(event, Finished)
    }
    assert together == alone
    assert alone["person"] == alone["free"] == GOOD
    assert alone["word"] in ("yes", "no")
    assert json.loads(alone["number"]) in (12, 13)


@pytest.mark.parametrize(
    ("grammar", "fault"),
    [
        (Grammar("json_schema", '{"not": {}}'), "not"),
        (Grammar("regex", "(?=a)"), "look-around"),
        (Grammar("lark", "start: other"), "unknown name"),
    ],
)
def test_what_cannot_be_enforced_is_named(processor: Processor, grammar: Grammar, fault: str) -> None:
    assert fault in (grammar_error(grammar) or "")
    engine, _ = engine_of(processor, GOOD)
    with pytest.raises(InputError, match=fault):
        run(engine, request(grammar=grammar))
    assert grammar_error(GRAMMAR) is None


def test_a_lark_grammar_is_followed(processor: Processor) -> None:
    engine, _ = engine_of(processor, "one;two;THREE")
    words = Grammar("lark", 'start: word word\nword: /[a-z]+/ ";"')
    assert run(engine, request(grammar=words))[0] == "one;two;"


def test_an_interrupt_while_tokens_are_asked_for_is_not_swallowed(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, encode = processor.tokenizer, Tokenizer.encode

    def interrupted(self: Tokenizer, text: str) -> list[int]:
        signal.raise_signal(signal.SIGINT)
        return encode(self, text)

    constraint = Grammars(tokenizer, {tokenizer.encode("a")[0]}).constraint(GRAMMAR)
    monkeypatch.setattr(Tokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        constraint.forced()


def test_structure_is_no_text(processor: Processor) -> None:
    """Tokens that a template writes cannot stand in a string, however they are spelled."""
    engine, _ = engine_of(processor, "")
    constraint = engine.grammars.constraint(Grammar("regex", "(?s).*"))
    allowed = constraint.allowed()
    assert allowed[processor.tokenizer.encode("a")[0]]
    structure = set(processor.tokenizer.added_ids) - engine.defaults.stop_ids
    assert not allowed[list(structure)].any()


@pytest.mark.parametrize("tokenizer", [Tokenizer(byte_tokenizer()), Tokenizer.from_folder(MINI)])
def test_bytes_of_tokens_are_those_of_their_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.token_bytes()
    assert len(tokens) == tokenizer.size
    text = "Zoë, 7 €\n\t\x00 日本 <think>"
    assert b"".join(tokens[i] for i in tokenizer.encode(text)) == text.encode()
    assert {i for i in range(tokenizer.size) if tokens[i] == b""} <= set(tokenizer.added_ids)


def random_schema(draw: random.Random, depth: int = 0) -> dict:
    """A schema of the kinds that people write, with formats, bounds, references and unions."""
    plain: list[dict] = [
        {"type": "string"},
        {"type": "string", "maxLength": draw.randint(1, 9), "minLength": 1},
        {"type": "string", "pattern": draw.choice(["^[A-Z]{2}-\\d{3}$", "^(ja|nein)$", "^\\w+ü$", "x*y"])},
        {"type": "string", "format": draw.choice(["date", "time", "date-time", "email", "uuid", "ipv4"])},
        {"type": "integer"},
        {"type": "integer", "minimum": draw.randint(-50, 5), "exclusiveMaximum": draw.randint(6, 900)},
        {"type": "number", "minimum": 0.5, "maximum": 99.25},
        {"type": "number"},
        {"type": "integer", "multipleOf": draw.choice([5, 7])},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": draw.sample(["ä", "b b", 1, 2.5, None, True, [1], {"k": "v"}], 3)},
        {"const": draw.choice(["fixed", 3, [1, "two"], {"a": {"b": []}}])},
        {"type": ["string", "null", "integer"]},
    ]
    if depth > 2 or draw.random() < 0.3:
        return draw.choice(plain)
    kind = draw.choice(["object", "object", "array", "anyOf", "tuple", "ref", "map"])

    def below() -> dict:
        return random_schema(draw, depth + 1)

    if kind == "object":
        names = draw.sample(
            ["id", "name", "größe", "a b", 'quo"te', "items", "total", "日付"], draw.randint(1, 4)
        )
        required = [name for name in names if draw.random() < 0.7]
        return {
            "type": "object",
            "properties": {name: below() for name in names},
            "required": required,
            "additionalProperties": draw.choice([False, {"type": "boolean"}]),
        }
    if kind == "array":
        least = draw.randint(0, 2)
        return {"type": "array", "items": below(), "minItems": least, "maxItems": least + draw.randint(0, 3)}
    if kind == "tuple":
        return {"type": "array", "prefixItems": [below(), below()], "items": False, "minItems": 2}
    if kind == "anyOf":
        return {"anyOf": [below(), below()]}
    if kind == "map":
        return {"type": "object", "patternProperties": {"^[a-c]$": below()}, "additionalProperties": False}
    node = {
        "type": "object",
        "properties": {"v": below(), "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["v", "next"],
        "additionalProperties": False,
    }
    return {"$ref": "#/$defs/node", "$defs": {"node": node}} if depth == 0 else node["properties"]["v"]


def draw_answer(constraint: Constraint, tokenizer: Tokenizer, draw: random.Random) -> str | None:
    """Any of the allowed tokens, one after another, such as end things more often; None without an end."""
    ending = [i for i in (tokenizer.id_of(c) for c in '"}],0') if i is not None]
    written: list[int] = []
    while len(written) < 600:
        for token in constraint.forced():
            constraint.push(token)
            written.append(token)
        if constraint.is_over:
            break
        allowed = constraint.allowed()
        assert allowed.any(), constraint.error
        wanted = [i for i in ending if allowed[i]]
        token = (
            draw.choice(wanted) if wanted and draw.random() < 0.6 else draw.choice(np.flatnonzero(allowed))
        )
        if tokenizer.token_of(int(token)) == "<|im_end|>":
            break
        constraint.push(int(token))
        written.append(int(token))
    return tokenizer.decode(written) if constraint.is_complete else None


def check_random_schemas(seeds: range) -> None:
    tokenizer = Tokenizer.from_folder(MINI)
    stop_id = tokenizer.id_of("<|im_end|>")
    assert stop_id is not None
    grammars = Grammars(tokenizer, {stop_id})
    num_finished = 0
    for seed in seeds:
        draw = random.Random(seed)
        schema = random_schema(draw)
        constraint = grammars.constraint(Grammar("json_schema", json.dumps(schema)))
        answer = draw_answer(constraint, tokenizer, draw)
        if answer is not None:
            num_finished += 1
            Draft202012Validator(schema).validate(json.loads(answer))
    assert num_finished > 0.8 * len(seeds)


def test_every_answer_drawn_by_a_random_schema_is_valid() -> None:
    check_random_schemas(range(30))


@pytest.mark.long
def test_every_answer_drawn_by_hundreds_of_random_schemas_is_valid() -> None:
    check_random_schemas(range(300))
