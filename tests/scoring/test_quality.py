"""Scores of takes against a slow loop written from the description, and what they must be by their meaning."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml

from acestep_models.blueprint import Blueprint
from acestep_models.errors import Cancelled
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.runtime import PlainRuntime
from acestep_models.scoring import likelihood
from acestep_models.scoring.likelihood import reading_bytes
from acestep_models.scoring.quality import Score, ScoreOptions, score, score_songs, top_recall

LONG = "warm: an acoustic ballad with 'soft' piano, brushed drums and a slow bass, # then strings that rise and fall"
EVERYTHING = Blueprint(
    caption=LONG,
    lyrics="[Verse]\nLa pluie tombe\n\n[Chorus]\n夜は長い\n",
    bpm=72,
    key="C# minor",
    time_signature="3",
    seconds=10.2,
    language="no",
    genres="acoustic pop, ballad",
)
SONGS = {
    "everything": EVERYTHING,
    "caption": Blueprint(caption="calm piano"),
    "lyrics": Blueprint(lyrics="[Instrumental]"),
    "facts": Blueprint(bpm=140, language="unknown"),
    "caption and a fact": Blueprint(caption="loud\nguitar", key="A major"),
    "texts": Blueprint(caption="calm piano", lyrics="la la"),
}


def codes(seed: int, count: int = 51) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 64, (count,), generator=generator).tolist()


def facts_of(song: Blueprint) -> dict[str, object]:
    """In the order of their names."""
    whole = {
        "bpm": song.bpm,
        "duration": None if song.seconds is None else int(song.seconds),
        "genres": song.genres,
        "keyscale": song.key,
        "language": song.language,
        "timesignature": song.time_signature and int(song.time_signature),
    }
    return {name: value for name, value in whole.items() if value}


def slow_logits(oracle: Any, tokenizer: Tokenizer, prompt: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One whole pass a target, over prompt and target encoded together; logits and the tokens that they predict."""
    start, ids = len(tokenizer.encode(prompt)), torch.tensor([tokenizer.encode(prompt + target)])
    return oracle(input_ids=ids).logits[0, start - 1 : -1].float(), ids[0, start:]


def slow_recall(logits: torch.Tensor, ids: torch.Tensor) -> float:
    found = 0.0
    for row, token in zip(logits, ids, strict=True):
        best = row.topk(10).indices.tolist()
        found += 1 - best.index(token) / 10 if token in best else 0
    return found / len(ids)


def slow_mean(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return float(logits.log_softmax(-1).gather(1, ids[:, None]).mean())


@torch.no_grad()
def slow_score(pair: Any, song: Blueprint, heard: list[int], scale: float) -> dict[str, Any]:
    """spec/planner.md §8, word for word."""

    def read(listened: list[int], target: str) -> tuple[torch.Tensor, torch.Tensor]:
        return slow_logits(pair.oracle, pair.lm.tokenizer, pair.understanding(listened), target)

    def say(name: str, value: object) -> str:
        return f"<think>\n{yaml.dump({name: value}, allow_unicode=True).strip()}\n</think>\n"

    lyrics = f"<think>\n</think>\n# Lyric\n{song.lyrics}\n"
    texts = {"caption": song.caption and say("caption", song.caption), "lyrics": song.lyrics and lyrics}
    parts: dict[str, float] = {}
    out: dict[str, Any] = {"caption": None, "lyrics": None, "caption_pmi": None, "lyrics_pmi": None}
    for name, text in texts.items():
        if text:
            out[f"{name}_pmi"] = slow_mean(*read(heard, text)) - slow_mean(*read([], text))
            parts[name] = out[name] = 1 / (1 + math.exp(-out[f"{name}_pmi"] / scale))
    out["recall"] = {name: slow_recall(*read(heard, say(name, value))) for name, value in facts_of(song).items()}
    if out["recall"]:
        parts["metadata"] = sum(out["recall"].values()) / len(out["recall"])
    weights = {"caption": 0.5, "lyrics": 0.3, "metadata": 0.2}
    out["total"] = sum(weights[name] * value for name, value in parts.items()) / sum(weights[name] for name in parts)
    return out


def check_equal(found: Score, expected: dict[str, Any]) -> None:
    assert dict(found.recall) == pytest.approx(expected.pop("recall"), abs=1e-9)
    for name, value in expected.items():
        assert getattr(found, name) == (None if value is None else pytest.approx(value, abs=1e-5)), name


@pytest.mark.parametrize("scale", [0.1, 0.5])
@pytest.mark.parametrize("name", SONGS)
def test_equals_the_slow_loop(tiny_lm: Any, name: str, scale: float) -> None:
    for seed in (1, 2):
        found = score(PlainRuntime(), tiny_lm.lm, SONGS[name], codes(seed), ScoreOptions(scale))
        check_equal(found, slow_score(tiny_lm, SONGS[name], codes(seed), scale))
        assert all(0 < value < 1 for _, value in found.recall)


def test_equals_the_slow_loop_at_ten_minutes(tiny_lm: Any) -> None:
    song, heard = replace(EVERYTHING, seconds=600.0), codes(3, 3000)
    check_equal(score(PlainRuntime(), tiny_lm.lm, song, heard), slow_score(tiny_lm, song, heard, 0.1))


def test_a_batch_gives_what_each_song_gives_alone(tiny_lm: Any) -> None:
    songs = [replace(EVERYTHING, codes=tuple(codes(seed))) for seed in range(3)]
    songs += [Blueprint(bpm=99, codes=(1, 2, 3))]
    together = score_songs(PlainRuntime(), tiny_lm.lm, songs)
    for song, found in zip(songs, together, strict=True):
        alone = score(PlainRuntime(), tiny_lm.lm, song)
        assert found.total == pytest.approx(alone.total, abs=1e-6)
        assert found.caption_pmi == (None if alone.caption_pmi is None else pytest.approx(alone.caption_pmi, abs=1e-6))
    assert len({found.total for found in together}) == 4


def test_absent_parts_leave_their_weight_to_the_others(tiny_lm: Any) -> None:
    options = ScoreOptions(0.5, caption=0.6, lyrics=0.1, metadata=0.3)
    found = {name: score(PlainRuntime(), tiny_lm.lm, song, codes(1), options) for name, song in SONGS.items()}
    assert found["everything"].components == ("caption", "lyrics", "metadata")
    assert found["caption"].components == ("caption",) and found["caption"].metadata is None
    assert found["caption"].total == pytest.approx(found["caption"].caption, rel=1e-12)
    assert found["lyrics"].total == pytest.approx(found["lyrics"].lyrics, rel=1e-12)
    assert found["facts"].total == pytest.approx(found["facts"].metadata) and found["facts"].caption_pmi is None
    two = found["caption and a fact"]
    assert two.total == pytest.approx((0.6 * two.caption + 0.3 * two.metadata) / 0.9)
    texts = score(PlainRuntime(), tiny_lm.lm, SONGS["texts"], codes(1), ScoreOptions(0.5, caption=0.0))
    assert texts.total == pytest.approx(texts.lyrics, rel=1e-12)


def test_scale_bends_the_scores_and_leaves_the_raw_values(tiny_lm: Any) -> None:
    found = [score(PlainRuntime(), tiny_lm.lm, EVERYTHING, codes(1), ScoreOptions(scale)) for scale in (0.1, 0.5, 1e-9)]
    assert len({one.caption_pmi for one in found}) == len({one.recall for one in found}) == 1
    for one, scale in zip(found[:2], (0.1, 0.5), strict=True):
        assert one.lyrics == pytest.approx(1 / (1 + math.exp(-one.lyrics_pmi / scale)))
    assert found[2].caption == (1.0 if found[2].caption_pmi > 0 else 0.0)


def test_recall_counts_the_ten_first_places() -> None:
    assert top_recall(torch.tensor([1, 2, 10, 11, 500])) == pytest.approx((1 + 0.9 + 0.1) / 5)
    assert top_recall(torch.tensor([1, 1])) == 1


def test_silence_about_a_song_moves_nothing(tiny_lm: Any) -> None:
    """What one part says does not depend on which others are set."""
    caption = score(PlainRuntime(), tiny_lm.lm, replace(EVERYTHING, lyrics="", bpm=None), codes(1))
    whole = score(PlainRuntime(), tiny_lm.lm, EVERYTHING, codes(1))
    assert caption.caption_pmi == pytest.approx(whole.caption_pmi, abs=1e-6)
    assert dict(whole.recall).items() > dict(caption.recall).items()


def test_codes_that_say_the_caption_have_positive_pmi_and_others_negative(tiny_lm: Any) -> None:
    piano, guitar = tuple(codes(1, 20)), tuple(codes(2, 20))
    caption = "<think>\ncaption: {}\n</think>\n".format
    pairs = (("calm piano", piano), ("loud guitar", guitar))
    lessons = [(heard, caption(text)) for text, right in pairs for heard in (right, ())]
    lm = tiny_lm.teach(tiny_lm.lm, lessons, 40)
    for caption, right, wrong in (("calm piano", piano, guitar), ("loud guitar", guitar, piano)):
        takes = [Blueprint(caption=caption, codes=heard) for heard in (wrong, right)]
        missed, met = score_songs(PlainRuntime(), lm, takes)
        assert met.caption_pmi > 0 > missed.caption_pmi
        assert met.total > 0.5 > missed.total


class Spy(PlainRuntime):
    """Remembers what it was told."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.reports: list[tuple[int, int]] = []
        self.reserved: list[int] = []
        self._stop_at = stop_at

    def progress(self, done: int, total: int) -> None:
        """Kept; cancels when it is time."""
        self.reports.append((done, total))
        self.cancel = self.cancel or len(self.reports) == self._stop_at

    def place(self, handle: Any, reserve_bytes: int = 0) -> Any:
        """Kept."""
        self.reserved.append(reserve_bytes)
        return super().place(handle, reserve_bytes)


def test_takes_of_one_plan_are_read_without_codes_once(tiny_lm: Any) -> None:
    def total(songs: list[Blueprint]) -> int:
        runtime = Spy()
        score_songs(runtime, tiny_lm.lm, songs)
        assert [done for done, _ in runtime.reports] == sorted(done for done, _ in runtime.reports)
        assert runtime.reports[-1][0] == runtime.reports[-1][1] == runtime.reports[0][1]
        return runtime.reports[-1][1]

    takes = [replace(EVERYTHING, codes=tuple(codes(seed))) for seed in range(3)]
    one, three = total(takes[:1]), total(takes)
    assert total([takes[0]] * 5) == one
    texts = once_read(tiny_lm, EVERYTHING)
    assert three == 3 * one - 2 * texts


def once_read(pair: Any, song: Blueprint) -> int:
    """What is read once for all takes: the prompt without codes, and both texts but for their last tokens."""
    caption = f"<think>\n{yaml.dump({'caption': song.caption}).strip()}\n</think>\n"
    lyrics = f"<think>\n</think>\n# Lyric\n{song.lyrics}\n"
    prompt = pair.understanding([])
    return sum(len(pair.lm.tokenizer.encode(text)) for text in (prompt, caption, lyrics)) - 2


def test_room_is_asked_for_once_by_the_longest_song(tiny_lm: Any) -> None:
    runtime, config = Spy(), tiny_lm.lm.model.module.config
    songs = [Blueprint(bpm=99, codes=tuple(codes(seed, count))) for seed, count in ((1, 30), (2, 90))]
    score_songs(runtime, tiny_lm.lm, songs)
    tokenizer = tiny_lm.lm.tokenizer
    text, prompt = (
        len(tokenizer.encode("<think>\nbpm: 99\n</think>\n")),
        len(tokenizer.encode(tiny_lm.understanding([1]))) - 1,
    )
    assert runtime.reserved == [reading_bytes(config, prompt + 90 + text - 1, text, torch.float32)]


def test_the_song_that_cannot_be_judged_is_named(tiny_lm: Any) -> None:
    whole = replace(EVERYTHING, codes=tuple(codes(1)))
    for songs, message in (
        ([whole, EVERYTHING], r"^song 2 of 2: the blueprint has no codes"),
        ([whole, whole, Blueprint(codes=(1,))], r"^song 3 of 3: the blueprint says nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            score_songs(PlainRuntime(), tiny_lm.lm, songs)


def test_cancel_acts_between_targets(tiny_lm: Any) -> None:
    runtime = Spy(stop_at=3)
    with pytest.raises(Cancelled):
        score(runtime, tiny_lm.lm, EVERYTHING, codes(1))
    assert len(runtime.reports) == 3


def test_cancel_acts_between_chunks_of_one_prompt(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 16)
    runtime = Spy(stop_at=2)
    with pytest.raises(Cancelled):
        score(runtime, tiny_lm.lm, EVERYTHING, codes(1))
    assert [done for done, _ in runtime.reports] == [0, 16]


@pytest.mark.parametrize(
    ("song", "heard", "message"),
    [
        (EVERYTHING, None, r"no codes, so there is nothing to listen to: run WriteCodes first"),
        (EVERYTHING, [], r"no codes, so there is nothing to listen to"),
        (Blueprint(codes=(1, 2)), None, r"says nothing: set a caption, lyrics or a fact"),
        (Blueprint(lyrics="\u1e9e" * 15_000), [1] * 3000, r"more than the 40960 positions .* Shorten the lyrics"),
        (EVERYTHING, [1, 64_000], r"codes: expected whole numbers 0 to 63999, got 64000"),
    ],
)
def test_what_cannot_be_judged_is_said(tiny_lm: Any, song: Blueprint, heard: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(PlainRuntime(), tiny_lm.lm, song, heard)


def test_wrong_options_are_said(tiny_lm: Any) -> None:
    for options, message in (
        ({"scale": 0.0}, r"scale: expected a number above 0, such as 0.1 or 0.5, got 0"),
        ({"scale": math.nan}, r"scale: .* got nan"),
        ({"caption": -0.1}, r"weights: .* got \(-0.1, 0.3, 0.2\)"),
        ({"caption": 0.0, "lyrics": 0.0, "metadata": 0.0}, r"at least one of them above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ScoreOptions(**options)
    with pytest.raises(ValueError, match=r"only caption, which count 0"):
        score(PlainRuntime(), tiny_lm.lm, SONGS["caption"], [1], ScoreOptions(caption=0.0))
    with pytest.raises(ValueError, match=r"one list for each of 2 songs, got 1"):
        score_songs(PlainRuntime(), tiny_lm.lm, [EVERYTHING] * 2, [[1]])
