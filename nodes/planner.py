"""PlanSong: from a sentence, or from a blueprint with gaps, to a whole song on paper."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..acestep_models.blueprint import LANGUAGES, Blueprint
from ..acestep_models.blueprint_fields import check_language, check_seconds
from ..acestep_models.planner.lm import LM
from ..acestep_models.planner.plan import MODES, PlanOptions, gaps, plan, reads_sentence
from ..acestep_models.planner.sampling import TokenSampling
from ..acestep_models.units import MAX_SECONDS, MAX_SONGS, MIN_SECONDS
from .describe import (
    describe_full,
    describe_lengths,
    describe_limits,
    describe_old_codes,
    describe_songs,
    told_together,
)
from .host.schema import io, out, report, schema, socket
from .planner_runtime import PlannerRuntime
from .summary import checked_songs
from .types import Blueprint as BlueprintType
from .widgets import (
    AUTO_NUMBER,
    answer,
    choice,
    decimal,
    given,
    lm_input,
    lm_seed_input,
    lm_wire,
    one_of,
    sampling_inputs,
)


class PlanSong(io.ComfyNode):
    """Node "ACEStepPlanSong"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Planner, a sentence or a blueprint in; a whole blueprint out."""
        return schema(
            node_id="ACEStepPlanSong",
            display_name="ACE-Step 1.5 Plan Song",
            description="Makes a whole song on paper: caption, lyrics, tempo, key, length and language, from one "
            "sentence or from a blueprint with gaps. What you set or locked is never overwritten.",
            search_aliases=["lm", "planner", "lyrics generator", "simple mode", "inspire", "enhance", "rewrite"],
            inputs=[
                lm_input(),
                *_plan_words(),
                *_plan_facts(),
                *_plan_songs(),
                lm_seed_input(
                    "another plan",
                    "With different_plans song 2 takes seed + 1, song 3 seed + 2; else all songs have one.",
                ),
                *sampling_inputs(),
                _draft_input(),
            ],
            outputs=[
                out(BlueprintType, "blueprint", "The songs on paper, for WriteCodes, EditBlueprint or DiTSample.")
            ],
        )

    @classmethod
    def validate_inputs(cls, seconds: Any = None) -> bool | str:
        """Complain before anything runs; a linked input is not known yet and arrives as None.

        Only this one is named: the host repeats a complaint for every input that is. The lists are the host's to
        check, and `execute` does it where the host does not.
        """
        return answer(lambda: _checked(seconds, None))

    @classmethod
    def execute(
        cls,
        lm: LM,
        mode: str,
        sentence: str,
        instrumental: bool,
        seconds: float,
        language: str,
        keep_lyrics: bool,
        songs: int,
        different_plans: bool,
        seed: int,
        temperature: float,
        top_p: float,
        top_k: int,
        blueprint: tuple[Blueprint, ...] | None = None,
    ) -> io.NodeOutput:
        """Draft, plan, and say what was filled in."""
        runtime = PlannerRuntime(lm_wire(lm))
        given_songs = checked_songs((Blueprint(),) if blueprint in (None, ()) else blueprint)
        drafts = _drafts(given_songs, _checked(seconds, language))
        options = PlanOptions(
            mode=one_of("mode", mode, MODES),
            sentence=sentence,
            instrumental=instrumental,
            keep_lyrics=keep_lyrics,
            songs=_count(songs, len(drafts)),
            different=different_plans,
            seed=seed,
            sampling=TokenSampling(temperature, top_p, top_k),
        )
        runtime.warn(describe_lengths([draft.length for draft in drafts]))
        planned = plan(runtime, lm, drafts, options)
        warnings = (
            *_left(drafts, options),
            describe_lengths([song.length for song in planned]),
            *describe_limits(lm, planned),
            describe_old_codes(drafts, planned),
        )
        return io.NodeOutput(planned, ui=report(*describe_songs(planned), *warnings, *runtime.manner()))


def _left(drafts: Sequence[Blueprint], options: PlanOptions) -> tuple[str, ...]:
    """What of the wishes had no effect, and why."""
    found = [gaps(draft, options) for draft in drafts]
    what = f"all that the mode {options.mode} writes"
    full = [describe_full(written, locked, what) for written, locked in found]
    kept = [_not_rewritten(draft, *gap) for draft, gap in zip(drafts, found, strict=True)]
    return (*told_together(full), *told_together(kept), *told_together([_unread(one, options) for one in drafts]))


def _not_rewritten(draft: Blueprint, written: Collection[str], locked: Collection[str]) -> str:
    names = ", ".join(sorted(name for name in locked if draft.is_set(name)))
    return f"{names}: locked, so not rewritten; unlock to have it rewritten" if written and names else ""


def _unread(draft: Blueprint, options: PlanOptions) -> str:
    if not options.sentence.strip():
        return ""
    if not gaps(draft, options)[0]:
        return "the sentence is not used: there is nothing to fill"
    if reads_sentence(draft, options):
        return ""
    return f"the sentence is not used: the mode {options.mode} reads the caption of the blueprint"


def _checked(seconds: float | None, language: str | None) -> dict[str, Any]:
    """What is set on the node itself, as a blueprint has it.

    Raises:
        ValueError: for values that a song cannot have.
    """
    found = {"seconds": (given(seconds), check_seconds), "language": (given(language), check_language)}
    try:
        return {name: check(value) for name, (value, check) in found.items() if value is not None}
    except ValueError as error:
        raise ValueError(f"{error} ({AUTO_NUMBER} means auto)" if "seconds" in str(error) else str(error)) from error


def _drafts(songs: tuple[Blueprint, ...], fields: dict[str, Any]) -> tuple[Blueprint, ...]:
    """The blueprint with what is set on the node; equal values agree.

    Raises:
        ValueError: where the two say different things.
    """
    for song in songs:
        for name, value in fields.items():
            if song.is_set(name) and getattr(song, name) != value:
                raise ValueError(
                    f"{name}: {value} on this node, but {getattr(song, name)} in the blueprint; set one of them to auto"
                )
        wish = fields.get("seconds")
        if song.codes is not None and wish not in (None, song.length):
            raise ValueError(
                f"seconds: {wish:g} on this node, but the codes of the blueprint are {song.length:g} s; set this one "
                "to auto, or take the codes out with EditBlueprint (codes: auto)"
            )
    return tuple(song.edit(**fields) if fields else song for song in songs)


def _count(songs: int, drafts: int) -> int:
    """How many songs: as many as there are drafts, or `songs` of the one draft."""
    if not 1 <= songs <= MAX_SONGS:
        raise ValueError(f"songs: expected 1 to {MAX_SONGS}, got {songs}; run the workflow again for more")
    if drafts > 1 and songs not in (1, drafts):
        raise ValueError(f"songs: {songs} on this node, but {drafts} in the blueprint; set this one to 1 or {drafts}")
    return max(songs, drafts)


def _draft_input() -> Any:
    return socket(
        BlueprintType,
        "blueprint",
        optional=True,
        tooltip="What you have of the song already. Not connected: nothing but the sentence.",
    )


def _plan_words() -> list[Any]:
    return [
        socket(
            io.Combo,
            "mode",
            options=list(MODES),
            default=MODES[0],
            tooltip="simple: a whole song out of the sentence. format: tidies caption and lyrics of the blueprint and "
            "adds the rest. plan: fills what the blueprint leaves open and keeps its caption. rewrite: as plan, with a "
            "richer caption. language: only finds the language of the lyrics.",
        ),
        socket(
            io.String,
            "sentence",
            default="",
            multiline=True,
            dynamic_prompts=True,
            placeholder="a soft love song for a quiet evening",
            tooltip="What the song shall be, in a sentence, for the mode simple; the others read it where there is no "
            "caption. Empty, and without a blueprint: a random song.",
        ),
        socket(io.Boolean, "instrumental", default=False, tooltip="A song without singing."),
    ]


def _plan_facts() -> list[Any]:
    return [
        decimal(
            "seconds",
            float(AUTO_NUMBER),
            (float(AUTO_NUMBER), MAX_SECONDS, 0.2),
            f"Length of the song, {MIN_SECONDS:g} to {MAX_SECONDS:g} seconds. {AUTO_NUMBER} = auto: the blueprint's, "
            "else the planner chooses.",
        ),
        choice("language", LANGUAGES, "Language of the lyrics. auto: the blueprint's, else the planner chooses."),
        socket(
            io.Boolean,
            "keep_lyrics",
            default=False,
            tooltip="In the mode format: the lyrics stay as you wrote them, every letter.",
        ),
    ]


def _plan_songs() -> list[Any]:
    return [
        socket(
            io.Int,
            "songs",
            default=1,
            min=1,
            max=MAX_SONGS,
            tooltip="How many songs to make at once. With 1, as many as the blueprint has.",
        ),
        socket(
            io.Boolean,
            "different_plans",
            default=False,
            tooltip="Off: one plan for all songs, which then differ in codes and noise. On: each song has a plan of "
            "its own, all of one length: yours, or that of song 1.",
        ),
    ]
