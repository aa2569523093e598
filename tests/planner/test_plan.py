"""Planning: what is filled, what is never touched, and what the model is asked (spec/planner.md §2, §2.9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acestep_models import lm_prompts
from acestep_models.blueprint import INSTRUMENTAL, Blueprint
from acestep_models.errors import Cancelled
from acestep_models.planner import ask as asking
from acestep_models.planner.plan import MODES, PlanOptions, plan
from acestep_models.runtime import PlainRuntime

FACTS = {"bpm", "caption", "seconds", "key", "language", "time_signature"}
FILLS = {
    "simple": FACTS | {"genres", "lyrics"},
    "format": FACTS | {"genres", "lyrics"},
    "plan": FACTS,
    "rewrite": FACTS,
    "language": {"language"},
}
SET = {
    "caption": "calm  piano: 'slow' ",
    "lyrics": "\n[Verse]\nla là 啦 \n\n",
    "bpm": 97,
    "key": "C# minor",
    "time_signature": "3",
    "seconds": 30.8,
    "language": "no",
    "genres": "folk",
}
WORDS = Blueprint(caption=SET["caption"], lyrics=SET["lyrics"])


@pytest.fixture
def settings():
    """settings(mode, ...) with short texts."""
    return lambda mode, **others: PlanOptions(
        mode, **{"caption_tokens": 8, "genre_tokens": 4, "lyric_tokens": 8, **others}
    )


@pytest.fixture
def run(tiny_lm, settings):
    """run(drafts, mode, ...) with the tiny planner."""

    def call(drafts, mode, **others):
        given = (drafts,) if isinstance(drafts, Blueprint) else drafts
        return plan(PlainRuntime(), tiny_lm, given, settings(mode, **others))

    return call


@pytest.fixture
def calls(monkeypatch, tiny_lm):
    """Every call of the model: its prompts as text, its seeds, and what it wrote as text."""
    seen, real, decode = [], asking.write_text, tiny_lm.tokenizer.decode

    def record(runtime, lm, prompts, writers, seeds, sampling, limit):
        written = real(runtime, lm, prompts, writers, seeds, sampling, limit)
        seen.append(
            {
                "prompts": [decode(ids) for ids in prompts],
                "seeds": list(seeds),
                "texts": [decode(ids) for ids in written],
            }
        )
        assert max(map(len, written)) <= limit
        return written

    monkeypatch.setattr(asking, "write_text", record)
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_fills_its_fields_and_says_so(run, mode):
    (song,) = run(Blueprint(sentence="x"), mode, sentence="a song")
    assert song.filled == FILLS[mode] == {name for name in SET if song.is_set(name)}
    assert song.sentence == "a song"
    assert {name: fact for name, fact in song.lm if not name.startswith("cut_")} == {
        "model": "tiny", "mode": mode, "seed": 0, "temperature": 0.85, "top_p": 0.9, "top_k": 0, "min_p": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["simple", "plan", "language"])
@pytest.mark.parametrize("names", [("bpm", "key"), ("caption", "lyrics", "seconds"), tuple(SET)[:7]])
def test_what_is_set_stays(run, mode, names):
    fixed = {name: SET[name] for name in names}
    (song,) = run(Blueprint(**fixed), mode, sentence="a song", seed=3)
    for name, value in fixed.items():
        assert getattr(song, name) == value and name not in song.filled


@pytest.mark.parametrize("mode", ["simple", "format"])
def test_the_model_goes_on_from_what_is_set(run, calls, mode):
    draft = replace(Blueprint(**SET), caption="", lyrics="", genres="").lock(["genres"])
    run(draft, mode)
    (text,) = calls[0]["texts"]
    assert text.startswith("<think>\nbpm: 97\ncaption:")
    assert "\nduration: 30\nkeyscale: C# minor\nlanguage: 'no'\ntimesignature: 3\n</think>" in text


@pytest.mark.parametrize("mode", MODES)
def test_locked_fields_are_not_touched_whether_set_or_not(run, calls, mode):
    draft = Blueprint(caption="x", lyrics="la").lock(["bpm", "caption", "lyrics", "key"])
    (song,) = run(draft, mode)
    assert (song.caption, song.lyrics, song.bpm, song.key) == ("x", "la", None, None)
    assert song.locked == draft.locked and song.filled == FILLS[mode] - draft.locked
    assert "bpm" not in calls[0]["texts"][0] and "keyscale" not in calls[0]["texts"][0]


@pytest.mark.parametrize("mode", MODES)
def test_without_a_gap_nothing_is_run(mode, settings):
    """No model, no change: a run of the same workflow costs nothing."""
    whole = Blueprint(**SET).lock(["caption", "lyrics"])
    draft = Blueprint(caption="x").lock(
        ["bpm", "caption", "lyrics", "key", "time_signature", "seconds", "language", "genres"]
    )
    for song in (whole, draft):
        assert plan(PlainRuntime(), None, (song,), settings(mode, songs=2, sentence="a song")) == (song, song)


@pytest.mark.parametrize(
    ("mode", "draft", "prompt"),
    [
        ("simple", Blueprint(), lm_prompts.inspire_prompt("a song")),
        ("simple", Blueprint(language="de"), lm_prompts.inspire_prompt("a song", language="de")),
        ("simple", Blueprint(lyrics=INSTRUMENTAL), lm_prompts.inspire_prompt("a song", True)),
        ("simple", Blueprint(caption="c", lyrics="la"), lm_prompts.format_prompt("a song", "la")),
        ("format", Blueprint(), lm_prompts.format_prompt("a song", "")),
        ("format", WORDS, lm_prompts.format_prompt(SET["caption"], SET["lyrics"])),
        ("plan", WORDS, lm_prompts.plan_prompt(SET["caption"], SET["lyrics"])),
        ("plan", Blueprint(lyrics="la"), lm_prompts.plan_prompt("a song", "la")),
        ("rewrite", Blueprint(caption="new", user_caption="mine"), lm_prompts.plan_prompt("mine", "")),
        ("language", WORDS, lm_prompts.plan_prompt(SET["caption"], SET["lyrics"])),
    ],
)
def test_each_mode_asks_with_its_prompt(run, calls, mode, draft, prompt):
    run(draft, mode, sentence="a song")
    assert [call["prompts"] for call in calls] == [[prompt]]


@pytest.mark.parametrize(
    ("mode", "draft", "prompt"),
    [
        ("simple", Blueprint(), lm_prompts.inspire_prompt("")),
        ("simple", Blueprint(caption="c"), lm_prompts.inspire_prompt("c")),
        ("simple", Blueprint(sentence="s"), lm_prompts.inspire_prompt("s")),
        ("simple", Blueprint(lyrics="la"), lm_prompts.format_prompt("", "la")),
        ("format", Blueprint(), lm_prompts.format_prompt("", "")),
    ],
)
def test_an_empty_sentence_is_what_the_draft_says_or_a_random_song(run, calls, mode, draft, prompt):
    (song,) = run(draft, mode, sentence=" \n")
    assert calls[0]["prompts"] == [prompt]
    assert song.is_set("caption") and song.is_set("lyrics") and song.sentence == draft.sentence


def test_format_writes_the_caption_anew_and_keeps_the_users_beside_it(run):
    (song,) = run(WORDS, "format")
    assert song.caption not in ("", SET["caption"])
    assert song.user_caption == SET["caption"] and "caption" in song.filled
    (again,) = run(song, "format", seed=1)
    assert again.user_caption == SET["caption"] and again.caption != song.caption


def test_kept_lyrics_are_kept_byte_for_byte(run, calls):
    (song,) = run(WORDS, "format", keep_lyrics=True)
    assert song.lyrics.encode() == SET["lyrics"].encode() and "lyrics" not in song.filled
    assert song.caption != SET["caption"]
    assert "</think>" not in calls[0]["texts"][0]  # nothing is written behind the last value
    (draft,) = run(Blueprint(caption="x"), "format", keep_lyrics=True)
    assert draft.is_set("lyrics")  # none to keep


def test_rewrite_changes_the_caption_alone(run):
    (song,) = run(Blueprint(**SET), "rewrite")
    assert replace(song, caption=SET["caption"], user_caption="", filled=frozenset(), lm=()) == Blueprint(**SET)
    assert song.filled == {"caption"} and song.user_caption == SET["caption"] != song.caption


def test_plan_keeps_the_caption_out_of_the_block(run, calls):
    (song,) = run(Blueprint(caption="calm piano", score=1.0), "plan")
    assert "caption" not in calls[0]["texts"][0] and "genres" not in calls[0]["texts"][0]
    assert song.caption == "calm piano" and song.score is None and song.user_caption == ""


def test_language_detection_stops_at_the_language(run, calls):
    (song,) = run(Blueprint(caption="x", bpm=97), "language")
    lines = calls[0]["texts"][0].split("\n")
    assert [line.split(":")[0] for line in lines] == ["<think>", "bpm", "duration", "keyscale", "language", ""]
    assert song.bpm == 97 and song.seconds is None and song.key is None and song.language


@pytest.mark.parametrize("mode", ["plan", "rewrite", "language"])
def test_planning_needs_something_to_plan_from(run, mode):
    with pytest.raises(ValueError, match=f"mode {mode}: there is nothing to plan from"):
        run((), mode, sentence="  ")


def test_one_plan_is_made_once_for_all(run, calls):
    songs = run(WORDS, "plan", songs=8, seed=5)
    assert len(songs) == 8 and len(set(songs)) == 1
    assert [(call["seeds"], len(call["prompts"])) for call in calls] == [([5], 1)]
    assert songs[0] == run(WORDS, "plan", seed=5)[0]


def test_different_plans_have_the_duration_of_the_first(run, calls):
    songs = run((), "simple", sentence="a song", songs=4, different=True, seed=2**64 - 2)
    assert len(set(songs)) == 4 and len({song.caption for song in songs}) == 4
    assert len({song.seconds for song in songs}) == 1
    assert [call["seeds"] for call in calls] == [[2**64 - 2], [2**64 - 1, 0, 1]]
    assert songs[0] == run((), "simple", sentence="a song", seed=2**64 - 2)[0]
    fixed = Blueprint(seconds=songs[0].seconds)
    (alone,) = run(fixed, "simple", sentence="a song", seed=0)
    assert replace(alone, filled=songs[2].filled) == songs[2]


def test_different_plans_have_the_users_duration(run, calls):
    songs = run((Blueprint(), Blueprint(seconds=33.2)), "simple", songs=2, different=True)
    assert [song.seconds for song in songs] == [33.2, 33.2] and len(calls) == 1
    assert songs[1].filled == FILLS["simple"] - {"seconds"}


def test_a_song_whose_length_is_locked_leaves_the_choice_to_the_next(run, calls):
    drafts = (Blueprint(caption="a").lock(["seconds"]), Blueprint(caption="b"), Blueprint(caption="c"))
    songs = run(drafts, "plan", songs=3)
    assert [song.caption for song in songs] == ["a", "b", "c"]
    assert songs[0].seconds is None and songs[1].seconds == songs[2].seconds is not None
    assert [len(call["prompts"]) for call in calls] == [1, 2]


def test_without_a_duration_to_agree_on_all_songs_go_at_once(run, calls):
    run(WORDS, "language", songs=4, different=True)
    assert [len(call["prompts"]) for call in calls] == [4]


def test_songs_of_their_own_drafts_are_planned_together(run, calls):
    drafts = (
        Blueprint(caption="a", seconds=20),
        Blueprint(caption="b", seconds=20),
        Blueprint(caption="a", seconds=20),
    )
    songs = run(drafts, "plan", songs=3)
    assert [song.caption for song in songs] == ["a", "b", "a"] and songs[0] == songs[2]
    assert [len(call["prompts"]) for call in calls] == [2]  # equal drafts and equal seeds are one plan
    assert songs[1] == run(drafts[1], "plan")[0]


def test_codes_fix_the_duration(run, calls):
    (song,) = run(Blueprint(caption="x", codes=(1,) * 60), "plan")
    assert song.seconds is None and "\nduration: 12\n" in calls[0]["texts"][0]
    assert song.filled == FACTS - {"caption", "seconds"}


def test_instrumental_songs_have_no_words(run, calls):
    for mode in ("simple", "format", "plan"):
        (song,) = run(Blueprint(), mode, sentence="a song", instrumental=True)
        assert song.lyrics == INSTRUMENTAL
    assert "instrumental: true" in calls[0]["prompts"][0]
    assert f"# Lyric\n{INSTRUMENTAL}\n" in calls[2]["prompts"][0]
    with pytest.raises(ValueError, match="instrumental: is on, but the blueprint has lyrics"):
        run(WORDS, "simple", instrumental=True)


@pytest.mark.slow
def test_4096_chinese_characters(run, calls):
    """Tens of thousands of the tiny tokenizer's tokens, in the prompt and in the block."""
    text = "漢" * 4096
    (song,) = run(Blueprint(caption=text), "plan")
    assert song.caption == text and text in calls[0]["prompts"][0]
    (song,) = run(Blueprint(), "simple", sentence=text)
    assert song.sentence == text and song.is_set("caption")


def test_a_caption_of_the_user_stands_in_the_block_of_the_free_modes(run, calls, tiny_lm):
    (song,) = run(Blueprint(caption="a: 'b'"), "simple", sentence="a song")
    assert song.caption == "a: 'b'" and "\ncaption: 'a: ''b'''\nduration:" in calls[0]["texts"][0]


def test_control_tokens_in_a_text_are_an_error(run):
    with pytest.raises(ValueError, match=r"sentence: '<\|im_end\|>' at position 2"):
        run((), "simple", sentence="a <|im_end|>")
    with pytest.raises(ValueError, match="lyrics: '<think>'"):
        run(Blueprint(lyrics="la <think>"), "plan")


def test_cancel_goes_through(tiny_lm, settings):
    runtime = PlainRuntime()
    runtime.cancel = True
    with pytest.raises(Cancelled):
        plan(runtime, tiny_lm, (WORDS,), settings("plan"))
