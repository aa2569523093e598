"""ScoreSongs and ChooseBest: which take says best what its blueprint says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import SongMeta
from ..acestep_models.pipelines.listen import Source, source_codes
from ..acestep_models.planner.lm import LM
from ..acestep_models.scoring.quality import Score, ScoreOptions, score_songs
from ..acestep_models.units import MAX_SONGS
from .host.latents import latent_samples
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .summary import checked_songs
from .types import Blueprint as BlueprintType
from .types import Conditioner as ConditionerType
from .types import Source as SourceType
from .widgets import decimal, lm_input, lm_wire

SCALE, SCALES = 0.5, (0.01, 1.0, 0.01)  # as in upstream's user interface
LOOSE = object()  # an input that nothing is connected to; what is connected but not known yet is None
ALONE = "source: connect the conditioner of Load DiT too, which turns the sound into codes"


class ScoreSongs(io.ComfyNode):
    """Node "ACEStepScoreSongs"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Planner and songs in; the same songs with a score out."""
        return schema(
            node_id="ACEStepScoreSongs",
            display_name="ACE-Step 1.5 Score Songs",
            description="Lets the planner listen to the codes of each song, or to finished audio, and say how well "
            "they fit caption, lyrics and facts. The numbers rank takes of one song; they do not compare songs.",
            search_aliases=["quality", "rank", "best of n", "evaluate", "pmi"],
            inputs=[
                lm_input(),
                socket(BlueprintType, "blueprint", tooltip="Songs with codes, from WriteCodes."),
                decimal(
                    "scale",
                    SCALE,
                    SCALES,
                    "How strict caption and lyrics are judged: smaller spreads similar takes, and more of them end "
                    "at 0 or 1. The ranking by one part stays the same.",
                    advanced=True,
                ),
                socket(
                    ConditionerType,
                    "conditioner",
                    optional=True,
                    tooltip="From Load DiT; needed only together with a source, to turn it into codes.",
                ),
                socket(
                    SourceType,
                    "source",
                    optional=True,
                    tooltip="Finished audio, from EncodeSource. Connected: it is judged instead of the songs' codes.",
                ),
            ],
            outputs=[out(BlueprintType, "blueprint", "The same songs with their scores, for ChooseBest.")],
        )

    @classmethod
    def validate_inputs(cls, source: Any = LOOSE, conditioner: Any = LOOSE) -> bool | str:
        """Complain before anything runs."""
        return ALONE if conditioner is LOOSE and source is not LOOSE else True

    @classmethod
    def execute(
        cls,
        lm: LM,
        blueprint: tuple[Blueprint, ...],
        scale: float,
        conditioner: ConditionerModels | None = None,
        source: Source | None = None,
    ) -> io.NodeOutput:
        """Judge and say why."""
        runtime, before = HostRuntime(), checked_songs(blueprint)
        heard = _codes_of(runtime, conditioner, source)
        codes = None if heard is None else [heard] * len(before)
        scores = score_songs(runtime, lm_wire(lm), before, codes, ScoreOptions(scale))
        songs = tuple(replace(song, score=score.total) for song, score in zip(before, scores, strict=True))
        judged = "" if heard is None else f"judged: the source ({len(heard)} codes)"
        return io.NodeOutput(songs, ui=report(*map(_describe, range(1, len(songs) + 1), scores), judged))


def _codes_of(
    runtime: HostRuntime, conditioner: ConditionerModels | None, source: Source | None
) -> tuple[int, ...] | None:
    """What the source says, None without one."""
    if source is None:
        return None
    if conditioner is None:
        raise ValueError(ALONE)
    return source_codes(runtime, conditioner, source)


def _describe(song: int, score: Score) -> str:
    """One line with the total, and what it is made of."""
    facts = ", ".join(f"{name} {value:.2f}" for name, value in score.recall)
    parts = (
        _text_part("caption", score.caption, score.caption_pmi),
        _text_part("lyrics", score.lyrics, score.lyrics_pmi),
        f"facts {score.metadata:.3f} ({facts})" if score.metadata is not None else "",
    )
    return f"song {song}: {score.total:.4f} = " + " · ".join(part for part in parts if part)


def _text_part(name: str, value: float | None, pmi: float | None) -> str:
    return "" if value is None or pmi is None else f"{name} {value:.3f} (PMI {pmi:+.4f} nats a token)"


class ChooseBest(io.ComfyNode):
    """Node "ACEStepChooseBest"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Scored songs, with their latents or before there are any; the best of both out."""
        return schema(
            node_id="ACEStepChooseBest",
            display_name="ACE-Step 1.5 Choose Best",
            description="Keeps the songs with the highest scores, best first, and the matching rows of their latents. "
            "Before DiTSample it saves the time of sampling the others.",
            search_aliases=["best of n", "rank", "select", "pick"],
            inputs=[
                socket(BlueprintType, "blueprint", tooltip="Songs with scores, from ScoreSongs."),
                socket(
                    io.Int, "keep", default=1, min=1, max=MAX_SONGS, tooltip="How many songs to keep, the best first."
                ),
                socket(
                    io.Latent,
                    "latent",
                    optional=True,
                    tooltip="The same songs as latents, in the same order, from DiTSample.",
                ),
            ],
            outputs=[
                out(BlueprintType, "blueprint", "The songs that were kept, best first."),
                out(io.Latent, "latent", "Their latents; nothing if no latent is connected."),
            ],
        )

    @classmethod
    def execute(
        cls, blueprint: tuple[Blueprint, ...], keep: int, latent: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        """Rank, cut, and show the ranking."""
        if not 1 <= keep <= MAX_SONGS:
            raise ValueError(f"keep: expected 1 to {MAX_SONGS}, got {keep}")
        songs = checked_songs(blueprint)
        order = _ranking(songs)
        kept = order[:keep]
        rows = None if latent is None else _rows(latent, kept, len(songs))
        return io.NodeOutput(tuple(songs[at] for at in kept), rows, ui=report(*_places(songs, order, keep)))


def _ranking(songs: Sequence[Blueprint]) -> list[int]:
    """Places in the batch, best first; of equals the first."""
    scores = [song.score for song in songs]
    unscored = [str(place) for place, value in enumerate(scores, 1) if value is None]
    if unscored:
        raise ValueError(
            f"blueprint: no score for song {', '.join(unscored)} of {len(songs)}; put a ScoreSongs node before "
            "this one (a changed plan or new codes make an old score void)"
        )
    return sorted(range(len(songs)), key=lambda place: -float(scores[place] or 0.0))


def _places(songs: Sequence[Blueprint], order: Sequence[int], keep: int) -> tuple[str, ...]:
    lines = (
        f"{rank}. song {at + 1}: {songs[at].score:.4f}{', kept' if rank <= keep else ''}"
        for rank, at in enumerate(order, 1)
    )
    plans = {(song.caption, song.lyrics, song.bpm, song.key, song.seconds) for song in songs}
    return (
        *lines,
        f"keep is {keep}, there are {len(songs)}" if keep > len(songs) else "",
        "the songs have different plans, but scores compare takes of one plan only" if len(plans) > 1 else "",
    )


def _rows(latent: dict[str, Any], kept: Sequence[int], songs: int) -> dict[str, Any]:
    """The latent with the rows that were kept, in their order; everything in it that has a row a song follows."""
    samples = latent_samples(latent)
    if len(samples) != songs:
        raise ValueError(
            f"latent: expected one row for each of {songs} songs, got {len(samples)}; connect the latent that "
            "DiTSample made of these songs"
        )
    chosen = {name: _chosen(value, kept, songs) for name, value in latent.items()}
    return {name: value for name, value in chosen.items() if value is not None}


def _chosen(value: Any, kept: Sequence[int], songs: int) -> Any:
    """The kept rows of a value with one row a song, other values as they are, None for facts about other songs."""
    if isinstance(value, SongMeta):
        if len(value.blueprints) != songs or len(value.seeds) != songs:
            return None
        pick = [(value.blueprints[at], value.seeds[at]) for at in kept]
        return replace(value, blueprints=tuple(b for b, _ in pick), seeds=tuple(s for _, s in pick))
    if isinstance(value, Tensor) and value.ndim and len(value) == songs:
        return value[list(kept)]
    if isinstance(value, list) and len(value) == songs:  # the host's batch_index
        return [value[at] for at in kept]
    return value
