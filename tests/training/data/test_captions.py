"""Tag, caption and genre as the model reads them (spec/lora.md §1.3)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from acestep_models.blueprint import Blueprint
from acestep_models.training.data.captions import spoken, with_instrumental
from acestep_models.training.data.clip import Clip, Dataset


def song(name="a", caption="soft piano", lyrics="la", **more):
    return Clip(f"{name}.wav", Blueprint(caption=caption, lyrics=lyrics), path=Path(f"{name}.wav"), seconds=5, **more)


def captions(*clips, **more):
    return [blueprint.caption for blueprint in spoken(Dataset("d", clips, **more))]


@pytest.mark.parametrize(
    ("position", "caption", "expected"),
    [
        ("prepend", "soft piano", "zx, soft piano"),
        ("append", "soft piano", "soft piano, zx"),
        ("replace", "soft piano", "zx"),
        ("prepend", "", "zx"),
        ("append", " ", "zx"),
        ("replace", "", "zx"),
    ],
)
def test_tag_places(position, caption, expected):
    assert captions(song(caption=caption), tag="zx", tag_position=position) == [expected]


def test_own_tags():
    clips = (song("a", tag="own"), song("b", tag=""), song("c"))
    assert captions(*clips, tag="zx") == ["own, soft piano", "soft piano", "zx, soft piano"]
    assert captions(song(), song("b", tag="own")) == ["soft piano", "own, soft piano"]


@pytest.mark.parametrize("clips", [1, 3, 8, 10])
@pytest.mark.parametrize("ratio", [0, 1, 10, 33, 50, 99, 100])
def test_genre_counts(clips, ratio):
    said = captions(*(song(str(k), caption="c", genre="g") for k in range(clips)), genre_ratio=ratio)
    assert said.count("g") == int(clips * ratio / 100 + 1e-9)
    random.seed(42)  # upstream's way
    places = list(range(clips))
    random.shuffle(places)
    assert [k for k, text in enumerate(said) if text == "g"] == sorted(places[: said.count("g")])


def test_overrides_win_and_an_empty_genre_leaves_the_caption():
    clips = (song("a", genre="jazz", prompt_override="caption"), song("b"), song("c", genre="jazz"))
    assert captions(*clips, genre_ratio=100, tag="zx") == ["zx, soft piano", "zx, soft piano", "zx, jazz"]
    assert captions(song(genre="jazz", prompt_override="genre")) == ["jazz"]


def test_unsaid_lyrics_are_instrumental_and_given_ones_stay():
    said = spoken(Dataset("d", (song("a", lyrics=""), song("b", lyrics="[Verse]\n la "))))
    assert [one.lyrics for one in said] == ["[Instrumental]", "[Verse]\n la "]


def test_instrumental_by_wish():
    clips = (song("a", lyrics=""), song("b", lyrics="la"), song("c", lyrics="[Instrumental]"))
    lyrics = {
        wish: [clip.blueprint.lyrics for clip in with_instrumental(Dataset("d", clips), wish).clips]
        for wish in (True, False)
    }
    assert lyrics == {True: ["[Instrumental]", "la", "[Instrumental]"], False: ["", "la", ""]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clips": ()}, "there is no song in it"),
        ({"clips": (song(), song())}, "two songs are called a.wav; rename one"),
        ({"clips": (song(),), "tag_position": "middle"}, "tag_position: expected one of prepend, append, replace"),
        ({"clips": (song(),), "genre_ratio": 101}, "genre_ratio: expected a whole number 0 to 100, got 101"),
        ({"clips": (song(),), "tag": "x" * 201}, "tag: at most 200 characters"),
    ],
)
def test_impossible_datasets(wrong, message):
    with pytest.raises(ValueError, match=message):
        Dataset("d", **wrong)


def test_impossible_clips():
    for wrong in ({"repeat": 0}, {"repeat": True}, {"prompt_override": "both"}, {"tag": "x" * 201}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: "):
            song(**wrong)
    with pytest.raises(ValueError, match="needs a sound file, a sound or a prepared tensor file"):
        Clip("a", Blueprint())
