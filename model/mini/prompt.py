"""A training question as text, equal to what `chat_template.jinja` makes of it."""

from mini.labels import Question

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def render(question: Question, has_image: bool) -> tuple[str, str, str]:
    """The prompt up to the picture's end (empty without one), its rest, and the target.

    Questions about one picture that share their system message share the first part. The target
    ends in `<|im_end|>`; of a question in thinking mode it begins with the reasoning.
    """
    system = f"<|im_start|>system\n{question.system}<|im_end|>\n" if question.system else ""
    opening = f"{system}<|im_start|>user\n"
    prefix, opening = (opening + IMAGE, "") if has_image else ("", opening)
    rest = f"{opening}{question.question}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    if question.reasoning is None:
        return prefix, f"{rest}\n</think>\n\n", f"{question.answer}<|im_end|>"
    return prefix, rest, f"{question.reasoning}\n</think>\n\n{question.answer}<|im_end|>"
