"""Extend: values that are refused early, and what is said of codes that may not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, None),
        ({"seconds": -1.0, "where": "start", "context": 2.0, "crossfade": 2.0}, None),
        ({"seconds": None, "where": None, "context": 600.0, "crossfade": None}, None),
        ({"context": None, "crossfade": 2.0}, None),
        ({"seconds": 0.0}, "seconds: expected 0.2 to 600 s of new music, got 0"),
        ({"seconds": 601.0}, "seconds: expected 0.2 to 600 s of new music, got 601"),
        ({"where": "middle"}, "where: expected one of end, start; got 'middle'"),
        ({"context": 1.8}, "context: expected 2 to 600 s of the source to be heard, got 1.8"),
        ({"crossfade": 2.5}, "crossfade: expected 0 to 2 s, got 2.5"),
        ({"crossfade": -0.1}, "crossfade: expected 0 to 2 s, got -0.1"),
    ],
)
def test_values_are_checked_before_anything_runs(pack, values, complaint):
    assert pack("extend").Extend.validate_inputs(**values) == (complaint or True)


@pytest.mark.parametrize(
    ("after", "where", "heard", "words"),
    [
        (50, "end", 50, ""),
        (None, "start", 50, ""),
        (None, "end", 50, "codes: not written to go on from the source; connect it to after of WriteCodes"),
        (300, "end", 10, "codes: written after 300 of a source, 10 are heard here"),
        (50, "start", 50, "codes: written to go on from 50 of a source, but this is an intro"),
    ],
)
def test_codes_that_go_on_from_something_else_are_told(pack, core, after, where, heard, words):
    facts = {} if after is None else {"codes_after": after}
    song = core("blueprint").Blueprint(caption="piano", codes=(7,) * 50, lm=facts)
    found = pack("extend").codes_doubt(song, where, heard)
    assert found.startswith(words) if words else found == ""


def test_a_song_without_codes_has_none_that_do_not_fit(pack, core):
    assert pack("extend").codes_doubt(core("blueprint").Blueprint(caption="piano"), "end", 50) == ""


@pytest.mark.parametrize(("asked", "made", "said"), [(20.1, 20.2, True), (20.2, 20.2, False), (None, 30.0, False)])
def test_a_length_that_was_rounded_is_told(pack, core, asked, made, said):
    splice = SimpleNamespace(spans=((0, 48_000),), samples=96_000)
    meta = SimpleNamespace(blueprints=(core("blueprint").Blueprint(caption="piano"),))
    result = SimpleNamespace(splice=splice, seconds=made, heard=10, song=SimpleNamespace(meta=meta))
    lines = pack("extend")._describe(result, core("pipelines.extend").ExtendSettings(asked))
    assert ("asked for 20.1 s, made 20.2 s: lengths are in steps of 0.2 s" in lines) == said
