"""Blueprints as JSON: there and back, other people's files, garbage; and codes as text."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep_models.blueprint import KEYS, LANGUAGES, PLANNED, Blueprint
from acestep_models.blueprint_fields import JSON_NAMES
from acestep_models.blueprint_json import codes_text, parse_codes, read_plan, write_plan

OURS = {"schema": "acestep-blueprint", "version": 1}
SPEC_EXAMPLE = """{"schema":"acestep-blueprint","version":1,
 "query":"", "caption":"", "caption_user":"", "lyrics":"", "instrumental":false,
 "bpm":null, "keyscale":"", "timesignature":"", "duration":null, "vocal_language":"unknown", "genres":"",
 "locked":["bpm","lyrics"],
 "lm":{"model":"acestep-5Hz-lm-1.7B","mode":"two_phase","seed":0,"temperature":0.85,"cfg_scale":2.0,"top_k":0},
 "songs":[{"lm_seed":0,"dit_seed":0,"audio_codes":"35847,1","n_codes":2,"score":null}]}"""


def read_one(data):
    """The only song of an object."""
    (song,) = read_plan(json.dumps(data))
    return song


optional, seeds = st.none(), st.integers(0, 2**64 - 1)
names = st.frozensets(st.sampled_from(PLANNED))
words = st.text(max_size=30)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
facts = words | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(-1e18, 1e18)
codes = st.lists(st.integers(0, 63_999), min_size=1, max_size=8)
keys = st.text(max_size=8).filter(lambda key: key not in JSON_NAMES)
blueprints = st.builds(
    Blueprint,
    caption=words,
    lyrics=words | st.just("[Instrumental]"),
    bpm=optional | st.integers(30, 300),
    key=optional | st.sampled_from(KEYS),
    time_signature=optional | st.sampled_from("2346"),
    language=optional | st.sampled_from(LANGUAGES),
    codes=optional | codes,
    seed=optional | seeds,
    locked=names,
    sentence=words,
    genres=words,
    user_caption=words,
    codes_seed=optional | seeds,
    score=optional | st.floats(-1e300, 1e300),
    filled=names,
    lm=st.dictionaries(words, facts, max_size=3).map(lambda d: tuple(d.items())),
    extra=st.dictionaries(keys, plain.map(json.dumps), max_size=3).map(lambda d: tuple(d.items())),
)
timed = st.builds(
    Blueprint, seconds=optional | st.integers(50, 3000).map(lambda n: n / 5), caption=words, extra=st.just(())
)


# The same examples every time, and no clock: a busy machine must not fail what is right.
@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.lists(blueprints | timed, min_size=1, max_size=4).map(tuple))
def test_json_there_and_back(songs):
    text = write_plan(songs)
    assert read_plan(text) == songs
    assert write_plan(read_plan(text)) == text


def test_the_file_is_the_one_of_the_specification():
    song = Blueprint(caption="calm", bpm=90, key="Am", seconds=30, language="en", locked={"key", "bpm"}, codes_seed=4)
    other = song.edit(bpm=100)
    assert json.loads(write_plan((song, other))) == {
        **OURS,
        **{"query": "", "caption": "calm", "caption_user": "", "lyrics": "", "instrumental": False},
        **{"keyscale": "A minor", "timesignature": None, "duration": 30, "vocal_language": "en", "genres": ""},
        **{"locked": ["bpm", "keyscale"], "filled": [], "lm": {}},
        "songs": [
            {"lm_seed": 4, "dit_seed": None, "audio_codes": "", "n_codes": 0, "score": None, "bpm": 90},
            {"lm_seed": 4, "dit_seed": None, "audio_codes": "", "n_codes": 0, "score": None, "bpm": 100},
        ],
    }


def test_the_example_of_the_specification_is_read():
    (song,) = read_plan(SPEC_EXAMPLE)
    assert song == Blueprint(
        locked={"bpm", "lyrics"},
        codes=(35847, 1),
        codes_seed=0,
        seed=0,
        lm=tuple(json.loads(SPEC_EXAMPLE)["lm"].items()),
    )


def test_upstreams_example_keeps_what_we_do_not_know():
    theirs = {
        "think": True,
        "caption": "A dramatic Latin pop track",
        "lyrics": "[Verse 1]\nTengo un nudo",
        **{"bpm": 100, "duration": 187, "keyscale": "A minor", "language": "es", "timesignature": "4"},
    }
    song = read_one(theirs)
    assert song == Blueprint(
        caption=theirs["caption"],
        lyrics=theirs["lyrics"],
        **dict(bpm=100, seconds=187, key="A minor", language="es", time_signature="4"),
        extra=(("think", "true"),),
    )
    assert json.loads(write_plan((song,)))["think"] is True


def test_upstreams_simple_example_is_a_sentence():
    theirs = {"description": "a soft Bengali love song", "instrumental": False, "vocal_language": "bn"}
    assert read_one(theirs) == Blueprint(sentence="a soft Bengali love song", language="bn")
    assert read_one({"description": "x", "instrumental": True}).lyrics == "[Instrumental]"


@pytest.mark.parametrize("nothing", [None, "", "N/A", "unknown", -1, 0, "-1", "auto", 0.0, -1.0])
@pytest.mark.parametrize("name", ["bpm", "keyscale", "timesignature", "duration", "vocal_language"])
def test_the_many_ways_of_saying_nothing(name, nothing):
    assert read_one({name: nothing}) == Blueprint()


@pytest.mark.parametrize(
    ("data", "field", "value"),
    [
        ({"bpm": "120"}, "bpm", 120),
        ({"duration": "30.2"}, "seconds", 30.2),
        ({"audio_duration": 30}, "seconds", 30.0),
        ({"key_scale": "c♯ Minor"}, "key", "C# minor"),
        ({"timesignature": 4}, "time_signature", "4"),
        ({"time_signature": "6/8"}, "time_signature", "6"),
        ({"language": "und"}, "language", "unknown"),
        ({"audio_codes": [5, 6]}, "codes", (5, 6)),
        ({"audio_codes": "5,6"}, "codes", (5, 6)),
        ({"audio_codes": "<|audio_code_5|><|audio_code_6|>"}, "codes", (5, 6)),
        ({"audio_codes": []}, "codes", None),
        ({"dit_seed": -1}, "seed", None),
        ({"dit_seed": "17"}, "seed", 17),
        ({"locked": "bpm, keyscale"}, "locked", frozenset({"bpm", "key"})),
        ({"lyrics": "[Intro]\n[Guitar Solo]", "instrumental": True}, "lyrics", "[Intro]\n[Guitar Solo]"),
        ({"bpm": 90, "songs": [{"bpm": 100}]}, "bpm", 100),
        ({"bpm": 90, "songs": [{"bpm": None}]}, "bpm", None),
        ({"duration": 30, "seconds": 30.0}, "seconds", 30.0),
        ({"duration": None, "seconds": 30.0}, "seconds", 30.0),
    ],
)
def test_spellings(data, field, value):
    assert getattr(read_one({**OURS, **data}), field) == value


def test_lists_of_blueprints_are_songs():
    assert read_plan('\ufeff[{"bpm": 90}, {"caption": "a", "songs": [{}, {"bpm": 100}]}]') == (
        Blueprint(bpm=90),
        Blueprint(caption="a"),
        Blueprint(caption="a", bpm=100),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON .Expecting value.*paste the whole text"),
        ("{", "not JSON"),
        ("3", "expected an object {...} or a list of objects, got int"),
        ("[1]", "got int"),
        ("[]", "expected 1 to 8 in a blueprint, got 0"),
        ('{"songs": [{}, {}, {}, {}, {}, {}, {}, {}, {}]}', "expected 1 to 8 in a blueprint, got 9"),
        ('{"songs": [1]}', r"songs: expected a list of objects, one a song, got \[1\]"),
        ('{"schema": "workflow"}', '"schema": "acestep-blueprint", got \'workflow\'; this is another format'),
        ('{"version": 2}', '"version": 1, got 2; update this node pack'),
        ('{"version": true}', "got True"),
        ('{"bpm": 3}', "bpm: expected 30 to 300 beats a minute, or auto; got 3"),
        ('{"bpm": true}', "bpm: expected text or a number, got True"),
        ('{"bpm": "fast"}', "bpm: expected a number, got 'fast'"),
        ('{"bpm": NaN}', "NaN is no number that JSON knows"),
        ('{"bpm": -Infinity}', "-Infinity is no number"),
        ('{"bpm": 1e999}', "1e999 is no number"),
        ('{"bpm": 1' + "0" * 5000 + "}", "1000.* is no number"),
        ('{"duration": 30, "seconds": 40}', "duration and seconds say different things"),
        ('{"caption": 3}', "caption: expected text, got 3"),
        ('{"caption": "\\ud83d"}', "caption: half a character"),
        ('{"x": "\\ud83d"}', "half a character"),
        ('{"locked": ["tempo"]}', "locked: unknown fields 'tempo'"),
        ('{"locked": 3}', "expected a list of field names, got 3"),
        ('{"instrumental": 3}', "instrumental: expected true or false, got 3"),
        ('{"instrumental": true, "lyrics": "[Verse] la"}', "the lyrics have words"),
        ('{"audio_codes": [1, 64000]}', "got 64000 as number 2 of 2"),
        ('{"audio_codes": "1,x"}', "got 'x' as number 2 of 2"),
        ('{"audio_codes": 3}', "audio_codes .codes.: expected a list, or text, got 3"),
        ('{"duration": 12, "audio_codes": "1"}', "a song of 12 s has 60 codes, got 1"),
        ('{"songs": [{}, {"bpm": 3}]}', "^song 2: bpm"),
        ('{"duration": 3}', "^duration .seconds.: expected 10 to 600 seconds, or auto; got 3"),
        ('{"duration": [3]}', r"^duration .seconds.: expected text or a number, got \[3\]"),
        ('{"seconds": 3}', "^seconds: expected 10"),
        ('{"keyscale": "H", "songs": [{}, {"key": "A"}]}', "^song 1: keyscale .key.: expected a note"),
        ('{"audio_codes": "1,x"}', "^audio_codes .codes.: expected whole numbers"),
        ('{"dit_seed": 1.5}', "^dit_seed .seed.: expected a whole number, got 1.5"),
        ('{"lm": [1]}', "lm: expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"x": ' + "[" * 50 + "]" * 50 + "}", "nested deeper than 40 levels"),
        ('{"x": "' + "a" * 70_000 + '"}', "at most 65536"),
        ("[" + "{}," * 500_000 + "{}]", "got 500001"),
        ("{" + ",".join(f'"{k}":1' for k in range(100_000)) + "}", "100000 keys in an object, at most 200"),
        ('{"x": [' + "1," * 1_000_000 + "1]}", "at most 65536"),
        (" " * 10_000_000, "10000000 characters, at most 4194304"),
    ],
)
def test_bad_json_is_refused(text, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(text)
    assert len(str(caught.value)) < 700 and time.perf_counter() - start < 5


ODD = (None, True, -1, 0, 10**30, 1.5, "", "N/A", "\ud800", "x" * 99, [], [[1]], {}, {"a": [None]}, [64_000], "1,2,-3")


def damaged(rng):
    """A JSON text that something happened to: odd values, odd places, bytes lost and doubled."""
    data = json.loads(SPEC_EXAMPLE)
    for _ in range(rng.randrange(4)):
        place = rng.choice([data, data["songs"][0] if isinstance(data.get("songs"), list) and data["songs"] else data])
        if isinstance(place, dict):
            place[rng.choice([*JSON_NAMES, "other"])] = rng.choice(ODD)
    text = json.dumps(rng.choice([data, [data], [data] * 9, data]))
    for _ in range(rng.choice([0, 0, 1, 3])):
        cut = rng.randrange(len(text))
        text = (
            text[:cut]
            + rng.choice(["", '"', "{", "NaN", "1e999", "\x00", "\\u", "[" * 50])
            + text[cut + rng.randrange(3) :]
        )
    return text


def test_two_thousand_damaged_texts_end_in_songs_or_in_a_message():
    rng, read, refused = random.Random(4), 0, 0
    start = time.perf_counter()
    for _ in range(2000):
        try:
            songs = read_plan(damaged(rng))
        except ValueError as error:
            assert type(error) in (ValueError,) and 10 < len(str(error)) < 700
            refused += 1
        else:
            assert read_plan(write_plan(songs)) == songs
            read += 1
    assert read > 200 and refused > 200
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("style", ["numbers", "tokens", "list"])
def test_codes_there_and_back(style):
    codes = (0, 63_999, 5)
    assert parse_codes(codes_text(codes, style)) == codes
    assert parse_codes(codes_text((), style)) == ()


def test_codes_are_written_in_three_ways():
    assert codes_text((1, 22)) == "1,22"
    assert codes_text((1, 22), "tokens") == "<|audio_code_1|><|audio_code_22|>"
    assert codes_text((1, 22), "list") == "[1, 22]"
    with pytest.raises(ValueError, match="expected one of numbers, tokens, list, got 'hex'"):
        codes_text((1,), "hex")


def test_codes_are_read_with_any_space_between():
    assert parse_codes(" 1, 2\n3\t4,\n") == (1, 2, 3, 4)
    assert parse_codes("<|audio_code_1|>\n <|audio_code_2|>") == (1, 2)
    assert parse_codes("[1,2,]") == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,64000", "0 to 63999 .*got '64000' as number 2 of 2"),
        ("-1", "got '-1' as number 1 of 1"),
        ("1,2.5", "got '2.5' as number 2 of 2"),
        ("1,٣", "number 2 of 2"),
        ("<|audio_code_64534|>", "got '64534' as number 1"),
        ("<|audio_code_1|><|audio_code_2>", "got '<|audio_code_2>' as number 2"),
        ("9" * 5000, "number 1 of 1"),
        (",".join("1" * 3001), "at most., got 3001"),
        (" " * 2_000_000, "2000000 characters"),
    ],
)
def test_what_is_no_code_is_named(text, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|").replace("[", r"\[")) as caught:
        parse_codes(text)
    assert len(str(caught.value)) < 300
