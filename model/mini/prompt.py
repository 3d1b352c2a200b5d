"""A training question as text, equal to what `chat_template.jinja` makes of it."""

from mini.labels import Question
from qwen35.processing.video_plan import VideoPlan

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PAIR = "<|vision_start|><|video_pad|><|vision_end|>"


def write_clip(plan: VideoPlan) -> str:
    """What stands for a clip: the time of each pair of frames, and a place for it."""
    return "".join(plan.timestamp(pair) + PAIR for pair in range(plan.num_pairs))


def render(question: Question, seen: str) -> tuple[str, str, str]:
    """The prompt up to the end of what is seen (empty where that is nothing), its rest, and the target.

    `seen` is `IMAGE`, a clip as `write_clip` has it, or nothing. Questions about one picture that share
    their system message share the first part. The target ends in `<|im_end|>`; of a question in thinking
    mode it begins with the reasoning.
    """
    system = f"<|im_start|>system\n{question.system}<|im_end|>\n" if question.system else ""
    opening = f"{system}<|im_start|>user\n"
    prefix, opening = (opening + seen, "") if seen else ("", opening)
    rest = f"{opening}{question.question}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    if question.reasoning is None:
        return prefix, f"{rest}\n</think>\n\n", f"{question.answer}<|im_end|>"
    return prefix, rest, f"{question.reasoning}\n</think>\n\n{question.answer}<|im_end|>"
