import pytest

from qwen35.engine.speech import Speech
from qwen35.events import ReasoningDelta, TextDelta
from qwen35.processing.tokenizer import Tokenizer
from tests.model.checkpoint import byte_tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())


def speak(text: str, *, starts_in_reasoning: bool, stop: tuple[str, ...] = ()) -> tuple[Speech, list]:
    """What becomes of `text`, in which `</think>` is one token."""
    speech = Speech(TOKENIZER, starts_in_reasoning=starts_in_reasoning, stop=stop)
    events = []
    for token in TOKENIZER.encode(text):
        events += speech.push(token)
        if speech.is_stopped:
            break
    events += speech.finish()
    return speech, events


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("hm, so\n</think>\n\nyes\n", "hm, so", "yes"),
        ("a\n\nb\n</think>\n\nc\n\nd", "a\n\nb", "c\n\nd"),
        ("</think>yes", "", "yes"),
        ("never closed", "never closed", ""),
        ("ü</think>ß", "ü", "ß"),
    ],
)
def test_reasoning_ends_where_its_block_does(text: str, reasoning: str, answer: str) -> None:
    speech, events = speak(text, starts_in_reasoning=True)
    assert (speech.reasoning, speech.answer) == (reasoning, answer)
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == reasoning
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == answer


def test_without_thinking_everything_is_the_answer() -> None:
    speech, _ = speak("no </think> thoughts", starts_in_reasoning=False)
    assert (speech.reasoning, speech.answer) == ("", "no </think> thoughts")


def test_a_model_may_open_the_block_itself() -> None:
    speech, _ = speak("<think>\nhm\n</think>\n\nyes", starts_in_reasoning=False)
    assert (speech.reasoning, speech.answer) == ("hm", "yes")
    later, _ = speak("It is <think>", starts_in_reasoning=False)
    assert (later.reasoning, later.answer) == ("", "It is <think>")


def test_the_tokens_of_the_block_are_counted_with_its_end() -> None:
    assert speak("abc</think>de", starts_in_reasoning=True)[0].num_reasoning_tokens == 4


def test_stop_strings_count_in_the_answer_alone() -> None:
    speech, _ = speak("one. two</think>three. four", starts_in_reasoning=True, stop=(".",))
    assert (speech.reasoning, speech.answer) == ("one. two", "three")
