"""Prompts that show clips, against the official processing: ids, time stamps, positions, and where one may
come back to."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from qwen35.errors import CheckpointError, InputError
from qwen35.messages import ImagePart, Message, Part, Sampling, TextPart, VideoPart
from qwen35.processing.processor import ModelInput, Processor
from qwen35.processing.template import ChatTemplate
from qwen35.processing.tokenizer import Tokenizer
from tests.model.clips import clip
from tests.model.processing.conftest import MINI
from tests.model.reference import DENSE, TOKEN_ID, reference_model

VIDEO, END = TOKEN_ID["<|video_pad|>"], TOKEN_ID["<|vision_end|>"]
PLACE = "<|vision_start|><|video_pad|><|vision_end|>"

# Frames, height, width, frames a second.
CLIPS = {
    "even": [(50, 64, 96, 25.0)],
    "odd numbers and sizes": [(33, 75, 133, 11.0)],
    "one frame": [(1, 64, 64, 25.0)],
    "two": [(12, 64, 96, 5.0), (7, 200, 40, 3.0)],
}


def picture() -> ImagePart:
    return ImagePart(np.random.default_rng(0).integers(0, 256, (97, 213, 3), dtype=np.uint8), "a.png")


def user(*parts: Part | str) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def clips_of(name: str) -> list[VideoPart]:
    return [VideoPart(clip(n, h, w, fps=fps, seed=i)) for i, (n, h, w, fps) in enumerate(CLIPS[name])]


def ask(folder: Path, *parts: Part | str) -> ModelInput:
    return Processor.from_folder(folder).prepare([user(*parts)])


def official_expansions(result: ModelInput) -> list[str]:
    """What the official processor writes for each clip, of the frames that were chosen."""
    written = []
    for planned in result.clips:
        indices = [round(time * planned.clip.fps) for time in planned.plan.times]
        inputs = {
            "video_grid_thw": torch.tensor(
                [[planned.plan.num_pairs, *planned.processor.grid(planned.plan)[1:]]]
            ),
            "video_metadata": [SimpleNamespace(fps=planned.clip.fps, frames_indices=indices)],
        }
        self = SimpleNamespace(
            video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
            vision_start_token="<|vision_start|>",
            vision_end_token="<|vision_end|>",
            video_token="<|video_pad|>",
            _calculate_timestamps=lambda *given: Qwen3VLProcessor._calculate_timestamps(None, *given),
        )
        written.append(Qwen3VLProcessor.replace_video_token(self, inputs, 0))
    return written


def with_expansions(prompt: str, place: str, written: list[str]) -> str:
    before, *after = prompt.split(place)
    return before + "".join(text + rest for text, rest in zip(written, after, strict=True))


@pytest.mark.parametrize("keeps_wrapper", [False, True])
@pytest.mark.parametrize("name", CLIPS)
def test_ids_and_positions_are_the_official_ones(folder: Path, name: str, keeps_wrapper: bool) -> None:
    parts = clips_of(name)
    messages = [
        Message.of_text("system", "Be brief."),
        user("Look: ", picture(), *parts, "What happens?"),
        Message.of_text("assistant", "Nothing."),
        user("Sure"),
    ]
    dicts = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look: "},
                {"type": "image"},
                *[{"type": "video"} for _ in parts],
                {"type": "text", "text": "What happens?"},
            ],
        },
        {"role": "assistant", "content": "Nothing."},
        {"role": "user", "content": "Sure"},
    ]
    processor = Processor.from_folder(folder)
    assert processor.video is not None
    processor.video.keeps_wrapper = keeps_wrapper
    result = processor.prepare(messages)

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    rendered = tokenizer.apply_chat_template(
        dicts,
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
        tokenize=False,
        add_generation_prompt=True,
    )
    place = "<|video_pad|>" if keeps_wrapper else PLACE
    expanded = with_expansions(rendered, place, official_expansions(result))
    expanded = expanded.replace("<|image_pad|>", "<|image_pad|>" * result.image_tokens)
    assert result.ids.tolist() == tokenizer(expanded, add_special_tokens=False)["input_ids"]
    assert result.video_tokens == expanded.count("<|video_pad|>")

    kinds = [{TOKEN_ID["<|image_pad|>"]: 1, VIDEO: 2}.get(i, 0) for i in result.ids.tolist()]
    positions, delta = reference_model(DENSE).model.get_rope_index(
        torch.from_numpy(result.ids)[None],
        mm_token_type_ids=torch.tensor([kinds]),
        image_grid_thw=torch.tensor(result.grid_thw),
        video_grid_thw=torch.tensor(
            [[c.plan.num_pairs, *c.processor.grid(c.plan)[1:]] for c in result.clips]
        ),
    )
    np.testing.assert_array_equal(result.position_ids, positions[:, 0].numpy())
    assert result.mrope_delta == delta.item()


def test_text_before_a_clip_is_tokenised_with_its_first_time_stamp() -> None:
    processor = Processor.from_folder(MINI)
    result = processor.prepare([user("a-", VideoPart(clip(2, 64, 64)), "b")])
    whole = "<|im_start|>user\na-<0.0 seconds>" + PLACE + "b<|im_end|>\n"
    assert result.prompt.startswith(whole)
    pads = processor.config.video_token_id
    short = [token for token in result.ids.tolist() if token != pads]
    expected = [token for token in Tokenizer.from_folder(MINI).encode(result.prompt) if token != pads]
    assert short == expected


def test_the_official_template_leaves_a_place_for_a_clip(folder: Path, official_template: str) -> None:
    (folder / "chat_template.jinja").write_text(official_template, encoding="utf-8")
    result = ask(folder, "Look:", VideoPart(clip(4)), "and", picture())
    assert f"Look:<0.0 seconds>{PLACE}<0.1 seconds>{PLACE}and<|vision_start|><|image_pad|>" in result.prompt


def test_text_that_spells_a_place_is_no_clip(folder: Path) -> None:
    result = ask(folder, PLACE, VideoPart(clip(2)), f"<0.0 seconds>{PLACE}")
    assert len(result.media) == 1
    assert result.prompt.count(PLACE) == 3
    assert (result.ids == VIDEO).sum() == result.media[0].length


def test_spans_say_where_each_pair_stands(folder: Path) -> None:
    first, second = clip(5, 64, 96, source="a.mp4"), clip(2, 64, 64, source="b.mp4", seed=1)
    result = ask(folder, VideoPart(first, Sampling(num_frames=5)), picture(), VideoPart(second), "?")
    assert [(span.source, span.pair, span.is_last) for span in result.media] == [
        ("a.mp4", 0, False),
        ("a.mp4", 1, False),
        ("a.mp4", 2, True),
        ("a.png", 0, True),
        ("b.mp4", 0, True),
    ]
    assert [span.length for span in result.media] == [6, 6, 6, 21, 4]
    assert [planned.clip for planned in result.clips] == [first, second]
    assert (result.image_tokens, result.video_tokens) == (21, 22)
    for span in result.media:
        assert result.ids[span.start - 1] == TOKEN_ID["<|vision_start|>"]
        assert len(set(result.ids[span.start : span.end].tolist())) == 1
        assert result.ids[span.end] == END
    assert result.grid_thw.tolist() == [[1, 6, 14]]
    assert first.calls == second.calls == 0  # a prompt is prepared without a look at a frame


@pytest.mark.parametrize("keeps_wrapper", [False, True])
def test_a_clip_is_one_document_however_many_pairs_it_has(folder: Path, keeps_wrapper: bool) -> None:
    processor = Processor.from_folder(folder)
    assert processor.video is not None
    processor.video.keeps_wrapper = keeps_wrapper
    result = processor.prepare([user(VideoPart(clip(40), Sampling(num_frames=40)), "What happens?")])
    (end,) = result.document_ends
    assert end == result.media[-1].end + 1 + keeps_wrapper
    assert result.ids[end - 1] == END
    assert result.ids[end] == ord("W")
    assert result.boundaries == (end, end + len("What happens?<\n"))  # and that of the message


def test_the_plan_and_what_it_assumes_are_noted(folder: Path) -> None:
    result = ask(folder, VideoPart(clip(50, 64, 96)), VideoPart(clip(2, 64, 96)), "?")
    assert result.notes[:2] == (
        "clip.mp4: 2 s at 2 fps: 4 frames of 96x64, 2 pairs x 6 = 12 tokens",
        "clip.mp4: 0.08 s at 25 fps: 2 frames of 96x64, 1 pair x 6 = 6 tokens",
    )
    assert len(result.notes) == 3
    assert "video_preprocessor_config.json" in result.notes[2]


def test_answers_to_come_back_to_are_kept_with_a_clip(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    written = template.read_text(encoding="utf-8").replace("<think>\\n\\n</think>\\n\\n", "")
    template.write_text(written, encoding="utf-8")  # else no answer is
    processor = Processor.from_folder(folder)
    question = user(VideoPart(clip(4)), "?")
    answer = replace(Message.of_text("assistant", "!"), token_ids=(ord("!"),))
    assert processor.is_kept([question], answer)


def test_a_model_of_text_alone_refuses_a_clip(folder: Path) -> None:
    processor = replace(Processor.from_folder(folder), image=None, video=None)
    with pytest.raises(InputError, match=r"clip\.mp4: this model reads text alone"):
        processor.prepare([user(VideoPart(clip(4)), "?")])


def test_a_clip_belongs_into_a_user_message(folder: Path) -> None:
    with pytest.raises(InputError, match="system message holds a clip"):
        Processor.from_folder(folder).prepare([Message("system", (VideoPart(clip(4)),)), user("?")])


def test_a_template_without_a_place_for_a_clip_is_named(folder: Path) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(CheckpointError, match="leaves 0 places for 1 clips"):
        replace(Processor.from_folder(folder), template=template).prepare([user(VideoPart(clip(4)))])


def test_a_base_model_sees_clips_too(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    result = ask(folder, picture(), VideoPart(clip(2, 64, 64)), "and then")
    assert result.prompt == f"<|vision_start|><|image_pad|><|vision_end|><0.0 seconds>{PLACE}and then"


def test_settings_of_the_checkpoint_are_used(folder: Path) -> None:
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    settings = {**pictures, "size": {"shortest_edge": 4096, "longest_edge": 25_165_824}, "fps": 1}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    result = ask(folder, VideoPart(clip(150, fps=25.0)), "?")
    assert len(result.clips[0].plan.times) == 6
    assert len(result.notes) == 1
