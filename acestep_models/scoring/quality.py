"""How well the codes of a take say what its blueprint says (spec/planner.md §8).

The planner is asked in the direction it understands: given these codes, how likely are this caption, these lyrics and
these facts? Compare takes of one blueprint; the numbers of different songs say nothing about one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from ..blueprint import Blueprint
from ..blueprint_fields import check_codes
from ..planner.lm import LM
from ..planner.memory import check_positions
from ..planner.understand import understand_ids
from ..runtime import Runtime
from .likelihood import Reader, TokenScores, reading_bytes
from .targets import CAPTION, LYRICS, TEXTS, Reading, Target, targets

TOP = 10  # ranks that count for a fact


@dataclass(frozen=True)
class ScoreOptions:
    """How the parts become one number.

    Attributes:
        scale: nats per token of PMI that count much: caption and lyrics score sigmoid(PMI / scale). Upstream's
            function has 0.1, which is nearly full at a PMI of 0.3; its user interface has 0.5.
        caption, lyrics, metadata: weights of the parts; those of absent parts go to the others.

    Raises:
        ValueError: for a scale that is not above 0, a negative weight, or weights that are all 0.
    """

    scale: float = 0.1
    caption: float = 0.5
    lyrics: float = 0.3
    metadata: float = 0.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale: expected a number above 0, such as 0.1 or 0.5, got {self.scale:g}")
        weights = (self.caption, self.lyrics, self.metadata)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
            raise ValueError(f"weights: expected numbers from 0 on, at least one of them above 0, got {weights}")


@dataclass(frozen=True)
class Score:
    """One take; what the blueprint does not say is None or missing.

    Attributes:
        total: 0 to 1, the weighted mean of caption, lyrics and metadata.
        caption_pmi, lyrics_pmi: pointwise mutual information with the codes in nats per token: above 0, the codes
            make the text likelier than hearing nothing does.
        caption, lyrics: the same as sigmoid(PMI / scale), 0 to 1.
        recall: of each fact (bpm, duration, genres, keyscale, language, timesignature) that is set, 0 to 1: how high
            its tokens stand among the ten likeliest. Its frame of tags and names is nearly always right, so it is no
            probability.
    """

    total: float
    caption_pmi: float | None
    lyrics_pmi: float | None
    caption: float | None
    lyrics: float | None
    recall: tuple[tuple[str, float], ...]

    @property
    def metadata(self) -> float | None:
        """The mean recall."""
        return sum(value for _, value in self.recall) / len(self.recall) if self.recall else None

    @property
    def components(self) -> tuple[str, ...]:
        """The parts that the total is made of."""
        return tuple(name for name in ("caption", "lyrics", "metadata") if getattr(self, name) is not None)


def score(
    runtime: Runtime,
    lm: LM,
    blueprint: Blueprint,
    codes: Sequence[int] | None = None,
    options: ScoreOptions = ScoreOptions(),
) -> Score:
    """Judge the blueprint's codes, or `codes` (of finished audio, say) in their place.

    Raises:
        ValueError: without codes, or for a blueprint that says nothing they could be compared with.
        ACEStepError: when the planner answers with numbers that are not finite.
    """
    return score_songs(runtime, lm, [blueprint], None if codes is None else [codes], options)[0]


def score_songs(
    runtime: Runtime,
    lm: LM,
    blueprints: Sequence[Blueprint],
    codes: Sequence[Sequence[int]] | None = None,
    options: ScoreOptions = ScoreOptions(),
) -> tuple[Score, ...]:
    """`score` of each song; takes of one blueprint share what does not depend on their codes.

    Progress counts tokens; a cancel acts within `likelihood.CHUNK` of them, or within a slice of the vocabulary.
    """
    pairs = zip(blueprints, _all_codes(blueprints, codes), strict=True)
    songs = [_song(lm, f"song {number} of {len(blueprints)}: ", *pair) for number, pair in enumerate(pairs, 1)]
    read = _read_all(runtime, lm, tuple(dict.fromkeys(chain.from_iterable(song.readings for song in songs))))
    return tuple(_judge(song, read, options) for song in songs)


@dataclass(frozen=True)
class _Song:
    """What is read of one song: everything behind its codes, and the texts once more behind no codes."""

    heard: Reading
    unheard: Reading | None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Both."""
        return (self.heard,) if self.unheard is None else (self.heard, self.unheard)


def _all_codes(
    blueprints: Sequence[Blueprint], codes: Sequence[Sequence[int]] | None
) -> Sequence[Sequence[int] | None]:
    if codes is None:
        return [blueprint.codes for blueprint in blueprints]
    if len(codes) != len(blueprints):
        raise ValueError(f"codes: expected one list for each of {len(blueprints)} songs, got {len(codes)}")
    return codes


def _song(lm: LM, name: str, blueprint: Blueprint, codes: Sequence[int] | None) -> _Song:
    if not codes:
        raise ValueError(
            f"{name}the blueprint has no codes, so there is nothing to listen to: run WriteCodes first, or give "
            "finished audio as source together with the conditioner"
        )
    wanted = targets(lm, blueprint)
    if not wanted:
        raise ValueError(f"{name}the blueprint says nothing: set a caption, lyrics or a fact to compare the codes with")
    texts = tuple(target for target in wanted if target.name in TEXTS)
    return _Song(_reading(lm, check_codes(codes), wanted), _reading(lm, (), texts) if texts else None)


def _reading(lm: LM, codes: Sequence[int], wanted: tuple[Target, ...]) -> Reading:
    prompt = understand_ids(lm.vocabulary, codes)
    check_positions(len(prompt), max(len(target.ids) for target in wanted))
    return Reading(prompt, wanted)


def _read_all(runtime: Runtime, lm: LM, readings: Sequence[Reading]) -> dict[Reading, dict[str, TokenScores]]:
    """The scores of every target by its name, for each reading."""
    handle, config = lm.model, lm.model.module.config
    capacity, judged = max(one.positions for one in readings), max(one.judged for one in readings)
    model = runtime.place(handle, reading_bytes(config, capacity, judged, handle.dtype))
    watch = _Watch(runtime, sum(one.tokens for one in readings))
    reader = Reader(model, capacity, runtime.device(handle), handle.dtype, watch.before)
    with torch.inference_mode():
        found = {one: _named(one, reader.scores(one.prompt, [part.ids for part in one.targets])) for one in readings}
    watch.finish()
    return found


def _named(reading: Reading, found: Sequence[TokenScores]) -> dict[str, TokenScores]:
    return {target.name: part for target, part in zip(reading.targets, found, strict=True)}


class _Watch:
    """Counts tokens and listens for a cancel."""

    def __init__(self, runtime: Runtime, total: int) -> None:
        self._runtime, self._total, self._done = runtime, total, 0

    def before(self, tokens: int) -> None:
        """A pass over so many tokens begins."""
        self._runtime.check_cancelled()
        self._runtime.progress(self._done, self._total)
        self._done += tokens

    def finish(self) -> None:
        """Everything is read."""
        self._runtime.progress(self._total, self._total)


def _judge(song: _Song, read: dict[Reading, dict[str, TokenScores]], options: ScoreOptions) -> Score:
    heard = read[song.heard]
    deaf = {} if song.unheard is None else read[song.unheard]
    pmi = {name: _mean(heard[name].log_probs) - _mean(deaf[name].log_probs) for name in deaf}
    recall = tuple((name, top_recall(part.ranks)) for name, part in heard.items() if name not in deaf)
    parts = {name: _sigmoid(value / options.scale) for name, value in pmi.items()}
    if recall:
        parts["metadata"] = sum(value for _, value in recall) / len(recall)
    total = _weighted(parts, options)
    return Score(total, pmi.get(CAPTION), pmi.get(LYRICS), parts.get(CAPTION), parts.get(LYRICS), recall)


def top_recall(ranks: Tensor) -> float:
    """1 for each token that is the likeliest, a tenth less for each rank below, 0 from rank 11 on; the mean of [N]."""
    return _mean((1 - (ranks.double() - 1) / TOP).clamp(min=0))


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _sigmoid(value: float) -> float:
    """Without overflow, and not 0 before it must be: ties would hide which take is better."""
    small = math.exp(-abs(value))
    return (1.0 if value >= 0 else small) / (1 + small)


def _weighted(parts: dict[str, float], options: ScoreOptions) -> float:
    """The mean with the weights of the parts that there are.

    Raises:
        ValueError: when the options give no weight to any of them.
    """
    weights = {name: getattr(options, name) for name in parts}
    if not sum(weights.values()):
        raise ValueError(f"weights: the blueprint has only {', '.join(parts)}, which count 0: give one of them weight")
    return float(sum(weights[name] * value for name, value in parts.items()) / sum(weights.values()))
