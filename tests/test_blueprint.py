"""A blueprint is legal, normalised, and survives JSON."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep_models.blueprint import KEYS, LANGUAGES, Blueprint


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bpm", 20, "bpm: expected 30 to 300 beats a minute, or auto; got 20"),
        ("bpm", 400, "got 400"),
        ("seconds", 0, "seconds: expected 10 to 600 seconds, or auto; got 0"),
        ("seconds", 9, "got 9"),
        ("seconds", 601, "got 601"),
        ("seconds", math.nan, "got nan"),
        ("seconds", math.inf, "got inf"),
        ("key", "H major", "got 'H major'"),
        ("key", "C dorian", "got 'C dorian'"),
        ("time_signature", "5/4", "got '5/4'"),
        ("language", "klingon", "got 'klingon'"),
        ("lyrics", "la " * 40_000, "got 120000; shorten the lyrics"),
        ("caption", "piano \ud83d", "half a character .* position 6, after 'piano '"),
        ("codes", (1, 64_000), r"got \[64000\]"),
        ("codes", (), "got none"),
        ("seed", -1, "got -1"),
        ("locked", {"tempo"}, "tempo"),
    ],
)
def test_illegal_values_name_value_and_range(field, value, message):
    with pytest.raises(ValueError, match=message):
        Blueprint(**{"caption": "x", field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bpm", "fast"),
        ("bpm", True),
        ("caption", 3),
        ("caption", None),
        ("lyrics", None),
        ("seed", 1.5),
    ],
)
def test_wrong_types_are_type_errors(field, value):
    with pytest.raises(TypeError, match=f"{field}: expected"):
        Blueprint(**{field: value})


@pytest.mark.parametrize(
    ("given_key", "key"),
    [
        ("Am", "A minor"),
        ("AM", "A major"),
        ("c♯ Minor", "C# minor"),
        ("B♭maj", "Bb major"),
        ("C", "C major"),
        ("bb min", "Bb minor"),
        ("F# major", "F# major"),
    ],
)
def test_keys_are_normalised(given_key, key):
    assert Blueprint(key=given_key).key == key
    assert key in KEYS


def test_other_spellings_are_normalised():
    song = Blueprint(bpm=119.6, time_signature="6/8", seconds=10.09, language="EN")
    assert (song.bpm, song.time_signature, song.seconds, song.language) == (120, "6", 10.0, "en")


def test_codes_must_fill_the_song():
    assert len(Blueprint(codes=range(50), seconds=10).codes) == 50
    with pytest.raises(ValueError, match="has 50 codes, got 49"):
        Blueprint(codes=range(49), seconds=10)


def test_an_empty_draft_is_legal_but_not_complete():
    with pytest.raises(ValueError, match="caption and lyrics are both empty"):
        Blueprint().require_complete()
    with pytest.raises(ValueError, match="caption and lyrics are both empty"):
        Blueprint(caption="  \n").require_complete()
    assert Blueprint(lyrics="la").require_complete().lyrics == "la"


optional = st.none()
blueprints = st.builds(
    Blueprint,
    caption=st.text(max_size=40),
    lyrics=st.text(max_size=40),
    bpm=optional | st.integers(30, 300),
    key=optional | st.sampled_from(KEYS),
    time_signature=optional | st.sampled_from("2346"),
    seconds=optional | st.integers(50, 3000).map(lambda codes: codes / 5),
    language=optional | st.sampled_from(LANGUAGES),
    seed=optional | st.integers(0, 2**64 - 1),
    locked=st.frozensets(st.sampled_from(["caption", "bpm", "codes"])),
)


# The same examples every time, and no clock: a busy machine must not fail what is right.
@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(blueprints)
def test_json_there_and_back(song):
    assert Blueprint.from_json(song.to_json()) == song


def test_json_keeps_codes():
    song = Blueprint(codes=(0, 63_999, 5), caption="c")
    assert Blueprint.from_json(song.to_json()) == song


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got list"),
        ("{}", '"schema": "acestep-blueprint"'),
        ('{"schema": "acestep-blueprint", "version": 2}', '"version": 1'),
        ('{"schema": "acestep-blueprint", "version": 1, "tempo": 3}', r"unknown fields \['tempo'\]"),
        ('{"schema": "acestep-blueprint", "version": 1, "bpm": 3}', "got 3"),
    ],
)
def test_bad_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Blueprint.from_json(text)
