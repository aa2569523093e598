"""Listening: what the model is given, and what of its answer counts (spec/planner.md §2.6)."""

from __future__ import annotations

import pytest

from acestep_models.blueprint import INSTRUMENTAL, Blueprint
from acestep_models.planner import ask as asking
from acestep_models.planner.understand import UnderstandOptions, understand, understand_ids
from acestep_models.runtime import PlainRuntime

CODES = tuple(range(0, 64_000, 1000))  # 64 codes, 12.8 s
HEARD = {"bpm", "caption", "genres", "key", "language", "lyrics", "time_signature"}
SHORT = {"caption_tokens": 8, "genre_tokens": 4, "lyric_tokens": 8}
OPTIONS = UnderstandOptions(**SHORT)


@pytest.fixture
def run(tiny_lm):
    """run(codes, draft, options) with the tiny planner."""
    return lambda codes, draft=None, options=OPTIONS: understand(
        PlainRuntime(), tiny_lm, codes, draft or Blueprint(), options
    )


@pytest.fixture
def texts(monkeypatch, tiny_lm):
    """What the model wrote, as text."""
    seen, real = [], asking.write_text

    def record(*args):
        written = real(*args)
        seen.extend(tiny_lm.tokenizer.decode(ids) for ids in written)
        return written

    monkeypatch.setattr(asking, "write_text", record)
    return seen


def test_codes_are_read_as_ids(tiny_vocabulary):
    """The same ids as those of the codes written out as text, which no tokenizer of the host could read."""
    text = (
        "<|im_start|>system\n# Instruction\nUnderstand the given musical conditions and describe the audio semantics "
        "accordingly:\n\n<|im_end|>\n<|im_start|>user\n<|audio_code_43316|><|audio_code_18426|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert understand_ids(tiny_vocabulary, (43316, 18426)) == tuple(tiny_vocabulary.tokenizer.encode(text))
    nothing = text.replace("<|audio_code_43316|><|audio_code_18426|>", "NO USER INPUT")
    assert understand_ids(tiny_vocabulary, ()) == tuple(tiny_vocabulary.tokenizer.encode(nothing))


@pytest.mark.host
def test_published_ids_of_codes(real_vocabulary):
    ids = understand_ids(real_vocabulary, (43316, 0, 63_999))
    place = ids.index(151669 + 43316)
    assert ids[place - 2 : place + 8] == (872, 198, 194985, 151669, 215668, 151645, 198, 151644, 77091, 198)


def test_everything_unset_is_filled(run, texts):
    song = run(CODES)
    assert song.filled == HEARD | {"seconds"} and all(song.is_set(name) for name in HEARD)
    assert song.seconds == 12.8 and song.codes == CODES and "\nduration: 12\n" in texts[0]
    assert "<|audio_code" not in texts[0]
    facts = {name: fact for name, fact in song.lm if not name.startswith("cut_")}
    assert facts == {"model": "tiny", "mode": "understand", "seed": 0, "temperature": 0.3}
    assert dict(song.lm)["cut_lyrics"] == "8 tokens"


def test_set_and_locked_fields_are_unchanged(run, texts):
    draft = Blueprint(bpm=97, caption="mine", lyrics="la", seconds=30).lock(["key", "bpm"])
    song = run(CODES, draft)
    assert (song.bpm, song.caption, song.lyrics, song.seconds, song.key) == (97, "mine", "la", 30.0, None)
    assert song.filled == HEARD - {"bpm", "caption", "lyrics", "key"}
    assert song.codes is None  # 64 codes do not fit into 30 s
    assert texts[0].startswith("<think>\nbpm: 97\ncaption: mine\nduration: 12\ngenres:") and "keyscale" not in texts[0]


def test_short_clips_have_no_duration_of_a_song(run):
    song = run(CODES[:10])
    assert song.seconds is None and song.codes == CODES[:10] and "seconds" not in song.filled


def test_codes_of_the_draft_stay(run):
    draft = Blueprint(codes=(1,) * 60)
    assert run(CODES, draft).codes == draft.codes and run(CODES, Blueprint().lock(["codes"])).codes is None


def test_nothing_is_run_when_nothing_is_asked():
    names = [*HEARD, "seconds"]
    song = understand(PlainRuntime(), None, CODES, Blueprint().lock(names), OPTIONS)
    assert song == Blueprint(codes=CODES).lock(names)


def test_a_score_goes_with_what_it_was_given_for(run):
    """Of codes that fit words; a song that stays as it was keeps it."""
    draft = Blueprint(caption="mine", bpm=90, seconds=12.8, codes=CODES, score=0.5)
    assert run(CODES, draft).score is None
    locked = draft.lock([*HEARD, "seconds"])
    assert run(CODES, locked) == locked
    assert run(CODES, Blueprint(score=0.5).lock([*HEARD, "seconds"])).score is None  # it has other codes now


def test_no_codes_make_the_model_invent_a_song(run):
    song = run(())
    assert song.codes is None and song.filled == HEARD | {"seconds"} and 10 <= song.seconds <= 600


def test_no_words_are_an_instrumental(run, monkeypatch, tiny_lm):
    answer = (
        "<think>\nbpm: 90\ncaption: a\nduration: 12\ngenres: g\nkeyscale: C major\nlanguage: 'no'\ntimesignature: 4\n"
        "</think>\n\n# Lyric\n<|im_end|>"
    )
    monkeypatch.setattr(asking, "write_text", lambda *args: [tiny_lm.tokenizer.encode(answer)])
    song = run(CODES)
    assert (song.lyrics, song.language, song.key, song.seconds) == (INSTRUMENTAL, "no", "C major", 12.8)


def test_the_seed_decides(run):
    hot = UnderstandOptions(sampling=asking.TokenSampling(), **SHORT)
    other = UnderstandOptions(seed=1, sampling=asking.TokenSampling(), **SHORT)
    assert run(CODES, options=hot) == run(CODES, options=hot) != run(CODES, options=other)


@pytest.mark.parametrize("codes", [(64_000,), (-1,), (1.5,), (1,) * 3001])
def test_codes_outside_of_the_codebook_are_refused(run, codes):
    with pytest.raises(ValueError, match="codes: expected"):
        run(codes)


def test_control_tokens_in_the_draft_are_an_error(run):
    with pytest.raises(ValueError, match="caption: .*control token"):
        run(CODES, Blueprint(caption="<think>"))
