"""Writing codes: which prompts, which seeds, how many, and whose codes stay (spec/planner.md §2.4, §2.5, §3.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acestep_models.blueprint import Blueprint
from acestep_models.lm_prompts import (
    codes_prompt,
    facts,
    legacy_codes_prompt,
    legacy_negative_prompt,
    negative_prompt,
    think_block,
)
from acestep_models.planner import codes as writing
from acestep_models.planner.codes import CodesOptions, write
from acestep_models.planner.sampling import TokenSampling
from acestep_models.runtime import PlainRuntime

SONG = Blueprint(caption="calm piano", lyrics="[Verse]\nla", bpm=90, key="C major", seconds=12.4, language="no")
REWRITTEN = replace(SONG, caption="A calm piano: slow", user_caption="calm piano", genres="classical")


@pytest.fixture
def run(tiny_lm):
    """run(songs, ...) with the tiny planner."""
    return lambda songs, **options: write(PlainRuntime(), tiny_lm, songs, CodesOptions(**options))


class Requests(list):
    """Every request that reached the engine; `ends` is how many codes each song gets, if not as many as asked for."""

    ends: tuple[int, ...] = ()

    def answer(self, runtime, lm, request):
        self.append(request)
        return [tuple(range(count)) for count in self.ends or [request.codes] * len(request.prompts)]


@pytest.fixture
def requests(monkeypatch):
    """The engine is not run, only asked."""
    seen = Requests()
    monkeypatch.setattr(writing, "write_codes", seen.answer)
    return seen


def test_exactly_five_codes_a_second(run):
    short = replace(SONG, seconds=10.2)
    songs = run([short, short, replace(short, bpm=91)], seed=3)
    for place, song in enumerate(songs):
        assert len(song.codes) == 51 and all(0 <= code < 64_000 for code in song.codes)
        assert song.codes_seed == 3 + place and "codes" in song.filled and song.seconds == 10.2
    assert len({song.codes for song in songs}) == 3
    assert songs[1].codes == run([short], seed=4)[0].codes  # alone and in a batch
    assert replace(songs[0], codes=None, codes_seed=None, filled=frozenset(), lm=()) == short


def test_the_model_reads_the_users_caption_and_in_the_block_the_planners(run, requests, tiny_lm):
    run([REWRITTEN, SONG], seed=2**64 - 1, guidance=3.0, negative="noise", sampling=TokenSampling(1.0, 0.8, 5, 0.1))
    (request,) = requests
    encode = tiny_lm.tokenizer.encode
    block = "<think>\nbpm: 90\ncaption: 'A calm piano: slow'\nduration: 12\nkeyscale: C major\nlanguage: 'no'\n</think>"
    assert request.prompts == (
        tuple(encode(codes_prompt("calm piano", SONG.lyrics, block))),
        tuple(encode(codes_prompt("calm piano", SONG.lyrics, block.replace("'A calm piano: slow'", "calm piano")))),
    )
    assert request.negative == tuple(encode(negative_prompt("noise")))
    assert (request.codes, request.seeds, request.guidance) == (62, (2**64 - 1, 0), 3.0)
    assert request.sampling == TokenSampling(1.0, 0.8, 5, 0.1) and not request.natural_end


def test_without_guidance_there_is_no_negative(run, requests):
    run([SONG], guidance=1.0)
    assert requests[0].negative is None


def test_the_legacy_format_has_a_negative_of_each_song(run, requests, tiny_lm):
    run([REWRITTEN, SONG], legacy=True)
    run([REWRITTEN], legacy=True, negative="noise")
    encode, block = tiny_lm.tokenizer.encode, think_block(facts(REWRITTEN))
    assert requests[0].prompts[0] == tuple(encode(legacy_codes_prompt("calm piano", SONG.lyrics, block)))
    assert requests[0].negative == (tuple(encode(legacy_negative_prompt("calm piano", SONG.lyrics))),) * 2
    assert requests[1].negative == (tuple(encode(legacy_negative_prompt("calm piano", SONG.lyrics, "noise"))),)


def test_how_it_was_written_is_kept(run, requests):
    (song,) = run([replace(SONG, lm=(("mode", "plan"), ("cfg_scale", 1.5)))], negative="noise", legacy=True)
    assert dict(song.lm) == {
        "mode": "plan", "codes_model": "tiny", "prompt_format": "legacy", "cfg_scale": 2.0, "negative_prompt": "noise",
        "temperature_codes": 0.85, "top_p_codes": 0.9, "top_k_codes": 0, "min_p_codes": 0.0,
    }  # fmt: skip


def test_unset_seconds_are_sixty_or_those_of_the_old_codes(run, requests):
    (song,) = run([Blueprint(caption="x")])
    assert song.seconds == 60.0 and len(song.codes) == 300 and song.filled == {"codes"}
    assert dict(song.lm)["default_seconds"] is True  # nobody's word, neither the user's nor the planner's
    assert "default_seconds" not in dict(song.edit(seconds=20).lm)
    (again,) = run([Blueprint(caption="x", codes=(1,) * 77)])
    assert again.seconds == 15.4 and len(again.codes) == 77 and "default_seconds" not in dict(again.lm)
    (short,) = run([Blueprint(caption="x", codes=(1,) * 7)])
    assert short.seconds == 60.0


def test_new_codes_replace_old_ones_and_their_score(run, requests):
    old = replace(SONG, codes=(5,) * 62, codes_seed=9, score=0.5, filled=frozenset({"codes"}))
    (song,) = run([old], seed=4)
    assert song.codes == tuple(range(62)) and song.codes_seed == 4 and song.score is None


def test_locked_codes_stay_and_the_others_keep_their_seeds(run, requests):
    locked = replace(SONG, codes=(5,) * 62).lock(["codes"])
    assert run([locked]) == (locked,) and not requests
    kept, written = run([locked, SONG], seed=10)
    assert kept == locked and written.codes_seed == 11 and requests[0].seeds == (11,)


def test_songs_of_different_length_are_written_by_length(run, requests):
    songs = run([SONG, replace(SONG, seconds=20), SONG], seed=1)
    assert [len(song.codes) for song in songs] == [62, 100, 62]
    assert [(request.codes, request.seeds) for request in requests] == [(62, (1, 3)), (100, (2,))]


def test_a_natural_end_shortens_the_song(run, requests):
    requests.ends = (55,)
    (song,) = run([replace(SONG, seconds=12.6).lock(["bpm"])], natural_end=True)
    assert requests[0].natural_end and len(song.codes) == 55 and song.seconds == 11.0


@pytest.mark.parametrize(
    ("songs", "options", "message"),
    [
        ([SONG.lock(["codes"])], {}, "codes: locked, but there are none"),
        ([Blueprint(caption="x").lock(["seconds"])], {}, "seconds: locked, but not set"),
        ([Blueprint(bpm=90)], {}, "caption and lyrics are both empty"),
        ([SONG, SONG], {"natural_end": True}, "natural end: the 2 songs would get different lengths"),
        (
            [SONG.lock(["seconds"])],
            {"natural_end": True},
            r"length of 12\.4 s is locked, .*unlock seconds, or",
        ),
        (
            [SONG],
            {"natural_end": True},
            r"expected 12\.6 s or more, .*got 12\.4\. Make the song longer",
        ),
        (
            [SONG, replace(SONG, lyrics="la " * 2048)],
            {},
            r"song 2: the lyric prompt has \d+ tokens, .* 2048\. Short",
        ),
        ([replace(SONG, caption="la " * 256)], {}, r"song 1: the caption prompt has \d+ tokens, .* most 256\. Shorten"),
        ([replace(SONG, lyrics="<|audio_code_5|>")], {}, "lyrics: .*control token"),
        ([replace(SONG, caption="</think>")], {}, "caption: .*control token"),
        ([SONG], {"negative": "<|im_end|>"}, "negative: .*control token"),
        ([SONG], {"negative": "a" * 4097}, "negative: at most 4096 characters, got 4097; shorten the negative"),
        ([SONG], {"negative": "half \ud83c"}, "negative: half a character .* at position 5"),
        ([SONG], {"guidance": float("nan")}, "guidance: expected a number"),
        ([SONG], {"seed": -1}, "seed: expected 0 to"),
    ],
)
def test_what_cannot_be_written_is_said(run, requests, songs, options, message):
    with pytest.raises(ValueError, match=message):
        run(songs, **options)
    assert not requests
