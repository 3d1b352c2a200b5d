import random

import pytest

from mini import fonts
from mini.sample import make_sample


@pytest.fixture
def no_fonts(monkeypatch, tmp_path):
    caches = (fonts.all_faces, fonts.families, fonts.first_faces)
    monkeypatch.setenv("MINI_FONTS", str(tmp_path))
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_pillow_s_own_face_is_enough(no_fonts):
    assert fonts.all_faces() == ()
    assert fonts.draw_face(random.Random(0), "test") is None
    assert make_sample("text", 0, "test").glyphs
    assert make_sample("receipt", 0, "test").glyphs


def test_the_held_out_family_is_drawn_for_tests_alone():
    drawn = {
        split: [fonts.draw_face(random.Random(seed), split) for seed in range(500)]
        for split in ("train", "val", "test")
    }
    num_held_out = {
        split: sum(path is not None and path.stem.startswith(fonts.HELD_OUT) for path in paths)
        for split, paths in drawn.items()
    }
    assert num_held_out["train"] == num_held_out["val"] == 0
    if fonts.families(is_held_out=True):
        assert 25 < num_held_out["test"] < 80
