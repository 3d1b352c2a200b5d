from functools import lru_cache

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mini.labels import Question
from mini.prompt import IMAGE, render, write_clip
from mini.sample import WORLDS, make_sample
from mini.tokenizer import TEMPLATE_FILE


def refuse(message):
    raise ValueError(message)


@lru_cache
def compiled_template():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.globals["raise_exception"] = refuse
    return environment.from_string(TEMPLATE_FILE.read_text())


def apply_template(messages, **settings):
    return compiled_template().render(messages=messages, **{"add_generation_prompt": True, **settings})


def messages_of(question, medium):
    text = {"type": "text", "text": question.question}
    content = [{"type": medium}, text] if medium else question.question
    system = [{"role": "system", "content": question.system}] if question.system else []
    return [*system, {"role": "user", "content": content}]


@pytest.mark.parametrize("world", WORLDS)
def test_prompts_equal_the_template_s(world):
    for seed in range(60):
        sample = make_sample(world, seed, "train", (96, 96))
        medium = "video" if sample.clip else "" if sample.pixels is None else "image"
        seen = write_clip(sample.clip.plan) if sample.clip else IMAGE if medium else ""
        for question in sample.questions:
            prefix, rest, target = render(question, seen)
            is_thinking = question.reasoning is not None
            expected = apply_template(messages_of(question, medium), enable_thinking=is_thinking)
            # The program puts a clip's pairs where the template leaves a place for it.
            expected = expected.replace("<|vision_start|><|video_pad|><|vision_end|>", seen)
            assert prefix + rest == expected
            assert prefix.endswith("<|vision_end|>") == bool(medium)
            assert target.endswith(f"{question.answer}<|im_end|>")


def test_the_target_of_thinking_mode_closes_the_reasoning():
    question = Question("Hi", "Hello.", "talk", reasoning="This is small talk.")
    prefix, rest, target = render(question, "")
    assert prefix == ""
    assert rest.endswith("<|im_start|>assistant\n<think>\n")
    assert target == "This is small talk.\n</think>\n\nHello.<|im_end|>"


def test_thinking_is_off_unless_asked_for():
    messages = [{"role": "user", "content": "Hi"}]
    plain = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert apply_template(messages) == plain
    assert apply_template(messages, enable_thinking=False) == plain
    assert apply_template(messages, enable_thinking=True) == plain.removesuffix("\n</think>\n\n")
    assert apply_template(messages, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_past_thinking_is_dropped():
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nSmall talk.\n</think>\n\nHello."},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "And this?"}]},
    ]
    assert apply_template(messages, add_generation_prompt=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>And this?<|im_end|>\n"
    )


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "system", "content": [{"type": "image"}]}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "sound"}]}],
    ],
)
def test_what_it_cannot_render_is_refused(messages):
    with pytest.raises(ValueError, match=r"\."):
        apply_template(messages)
