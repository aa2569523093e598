"""A blueprint is legal and normalised; filling respects the user, editing keeps it true."""

import math
from dataclasses import replace

import pytest

from acestep_models.blueprint import KEYS, PLANNED, Blueprint


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
        ("codes", (1, 64_000), "got 64000 as number 2 of 2"),
        ("codes", (3, 2.5), "got 2.5 as number 2 of 2"),
        ("codes", (True,), "got True as number 1 of 1"),
        ("codes", (), "expected 1 to 3000 of them .5 a second, 600 s at most., got none"),
        ("codes", range(3001), "got 3001"),
        ("bpm", 10**400, "got a whole number of 1329 bits"),
        ("codes_seed", 2**64, "codes_seed: expected 0 to 18446744073709551615"),
        ("score", math.nan, "score: expected a finite number, got nan"),
        ("filled", {"sentence"}, "filled: unknown fields 'sentence'"),
        ("lm", (("t", math.inf),), "lm t: expected a number within 64 bits, got inf"),
        ("extra", (("bpm", "1"),), "extra: bpm are fields of their own"),
        ("extra", tuple((str(k), "1") for k in range(101)), "101 unknown keys, at most 100"),
        ("extra", (("x", "{"),), "x: not JSON that can be kept"),
        ("extra", (("x", "NaN"),), "x: not JSON that can be kept"),
        ("extra", (("x", "[" * 40 + "]" * 40),), "nested deeper than 32 levels"),
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
        ("locked", "bpm"),
        ("score", "high"),
        ("sentence", None),
        ("lm", (("t", None),)),
    ],
)
def test_wrong_types_are_type_errors(field, value):
    with pytest.raises(TypeError, match=f"{field}.*: expected"):
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


def test_set_means_that_it_says_something():
    song = Blueprint(caption=" \n", lyrics="la", bpm=90, language="unknown", codes=range(50))
    said = {name for name in (*PLANNED, "sentence", "locked", "filled", "lm", "score") if song.is_set(name)}
    assert said == {"lyrics", "bpm", "language", "codes"}
    with pytest.raises(ValueError, match="there is no field 'tempo'; fields are caption, lyrics"):
        song.is_set("tempo")


def test_length_is_that_of_the_seconds_or_of_the_codes():
    assert Blueprint(seconds=12).length == 12.0
    assert Blueprint(codes=range(152)).length == 30.4
    assert Blueprint().length is None


def test_fill_touches_only_what_is_unset_and_free():
    draft = Blueprint(caption="mine", bpm=90, locked={"key"})
    song = draft.fill(
        caption="theirs", bpm=120, key="C major", lyrics="la", language="en", seconds=30, genres="", seed=3
    )
    assert (song.caption, song.bpm, song.key, song.lyrics) == ("mine", 90, None, "la")
    assert (song.language, song.seconds, song.genres, song.seed) == ("en", 30.0, "", 3)
    assert song.filled == {"lyrics", "language", "seconds", "seed"}
    assert song.fill(lyrics="lo", bpm=100) == song
    assert draft.fill() == draft


def test_codes_fix_the_length_against_filling():
    song = Blueprint(codes=range(60)).fill(seconds=30, bpm=100)
    assert (song.seconds, song.bpm, song.length) == (None, 100, 12.0)


def test_an_edit_is_the_users_own_word():
    planned = Blueprint(locked={"bpm"}, bpm=90).fill(caption="a", key="C major", seconds=12)
    edited = planned.edit(bpm=100, key="Am", caption="b")
    assert (edited.bpm, edited.key, edited.caption) == (100, "A minor", "b")
    assert edited.filled == {"seconds"} and edited.locked == {"bpm"}
    assert edited.edit(key=None, caption=None, seconds=None) == Blueprint(bpm=100, locked={"bpm"})
    with pytest.raises(ValueError, match="there is no field 'tempo'"):
        planned.edit(tempo=3)


def coded():
    """A song with codes and everything that belongs to them."""
    song = Blueprint(caption="new", user_caption="old", seconds=12, codes=range(60), codes_seed=7, score=0.5, bpm=90)
    return replace(song, filled=song.filled | {"codes", "caption"})


def test_an_edit_drops_what_it_makes_untrue():
    shorter = coded().edit(seconds=10)
    assert (shorter.codes, shorter.codes_seed, shorter.score) == (None, None, None)
    assert shorter.filled == {"caption"} and shorter.user_caption == "old"
    assert coded().edit(seconds=None).codes is None
    reworded = coded().edit(caption="mine")
    assert (reworded.user_caption, reworded.codes_seed, reworded.score) == ("", 7, None)
    recoded = coded().edit(codes=range(1, 61))
    assert (recoded.codes_seed, recoded.score, recoded.filled) == (None, None, {"caption"})
    assert len(coded().edit(seconds=10, codes=range(50)).codes) == 50
    with pytest.raises(ValueError, match="has 60 codes, got 50"):
        coded().edit(codes=range(50))


def test_an_edit_that_changes_nothing_keeps_everything():
    same = coded().edit(seconds=12.04, caption="new", bpm=90)
    assert same.filled == {"codes"} and coded().edit() == coded()
    assert (same.codes, same.codes_seed, same.score, same.user_caption) == (tuple(range(60)), 7, 0.5, "old")
    unset = Blueprint(codes=range(60), codes_seed=7)
    assert unset.edit(seconds=12).codes_seed == 7 and unset.edit(seconds=None) == unset
    assert unset.edit(seconds=13).codes is None


def test_locks_are_added_and_taken():
    song = Blueprint().lock(["bpm", "lyrics"])
    assert song.locked == {"bpm", "lyrics"} and song.lock(["bpm"]) == song
    assert song.unlock(["bpm", "key"]).locked == {"lyrics"}
    for change in (song.lock, song.unlock):
        with pytest.raises(ValueError, match="unknown fields 'tempo'; known are caption, lyrics, bpm"):
            change(["tempo"])


def test_what_was_kept_has_one_order_and_one_spelling():
    song = Blueprint(extra={"b": '{"x":1,  "y":[true]}', "a": "null"}.items(), lm={"z": 1, "a": "t"}.items())
    assert song.extra == (("a", "null"), ("b", '{"x": 1, "y": [true]}'))
    assert song.lm == (("a", "t"), ("z", 1))
    assert hash(song) == hash(Blueprint(extra=song.extra, lm=song.lm))
