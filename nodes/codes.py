"""WriteCodes and UnderstandAudio: from words to audio codes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.kept import CONTEXT_SECONDS, kept_codes
from ..acestep_models.pipelines.listen import Source, source_codes
from ..acestep_models.planner.codes import CodesOptions, lengths, write
from ..acestep_models.planner.lm import LM
from ..acestep_models.planner.sampling import TokenSampling
from ..acestep_models.planner.understand import UnderstandOptions, gaps, understand
from .describe import describe_full, describe_lengths, describe_songs, told_together
from .describe_codes import describe_after, describe_heard, describe_written
from .host.schema import io, out, report, schema, socket
from .planner_runtime import PlannerRuntime
from .summary import checked_songs
from .types import Blueprint as BlueprintType
from .types import Conditioner
from .types import Source as SourceType
from .widgets import (
    blueprint_input,
    conditioner_input,
    context_input,
    decimal,
    lm_input,
    lm_seed_input,
    lm_wire,
    one_of,
    sampling_inputs,
    wire,
)

MOST_GUIDANCE = 10.0
ENDINGS = ("exact", "natural")
FORMATS = ("trained", "legacy")


class WriteCodes(io.ComfyNode):
    """Node "ACEStepWriteCodes"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Planner and blueprint in; the blueprint with audio codes out."""
        return schema(
            node_id="ACEStepWriteCodes",
            display_name="ACE-Step 1.5 Write Codes",
            description="Writes the audio codes of each song, 5 for a second: the melody and structure that DiTSample "
            "then turns into sound.",
            search_aliases=["lm", "audio codes", "semantic tokens", "thinking"],
            inputs=[lm_input(), blueprint_input(), _codes_seed(), *_codes_inputs(), *_after_inputs()],
            outputs=[out(BlueprintType, "blueprint", "The same songs with their codes, for DiTSample.")],
        )

    @classmethod
    def execute(
        cls,
        lm: LM,
        blueprint: tuple[Blueprint, ...],
        seed: int,
        guidance: float,
        negative: str,
        temperature: float,
        top_p: float,
        top_k: int,
        min_p: float,
        ending: str,
        prompt_format: str,
        after: Source | None = None,
        conditioner: ConditionerModels | None = None,
        context: float = CONTEXT_SECONDS,
    ) -> io.NodeOutput:
        """Write, and say how many."""
        runtime, before = PlannerRuntime(lm_wire(lm)), checked_songs(blueprint)
        options = CodesOptions(
            seed=seed,
            guidance=guidance,
            negative=negative,
            sampling=TokenSampling(temperature, top_p, top_k, min_p),
            natural_end=one_of("ending", ending, ENDINGS) == "natural",
            legacy=one_of("prompt_format", prompt_format, FORMATS) == "legacy",
        )
        warning = describe_lengths(lengths(before))
        runtime.warn(warning)
        written = any("codes" not in song.locked for song in before)
        kept = _kept_codes(runtime, after, conditioner, context) if written else ()
        songs = write(runtime, lm, before, options, kept)
        manner = (f"guidance: {guidance:g}", *runtime.manner()) if written else ()
        told = (*describe_written(before, songs), describe_after(kept))
        return io.NodeOutput(songs, ui=report(*told, warning, *manner))


def _kept_codes(
    runtime: PlannerRuntime, after: Source | None, conditioner: ConditionerModels | None, context: float
) -> tuple[int, ...]:
    """The codes to go on from; none where no source is connected."""
    if after is None:
        return ()
    wire("after", after, Source, "EncodeSource")
    if conditioner is None:
        raise ValueError("conditioner: needed to read the codes of what is on after; connect that of Load DiT")
    wire("conditioner", conditioner, ConditionerModels, "Load DiT")
    return kept_codes(runtime, conditioner, after, context)


class UnderstandAudio(io.ComfyNode):
    """Node "ACEStepUnderstandAudio"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Planner and a source, or a blueprint with codes, in; what the planner hears out."""
        return schema(
            node_id="ACEStepUnderstandAudio",
            display_name="ACE-Step 1.5 Understand Audio",
            description="Listens to a song, or reads its audio codes, and writes down what it hears: caption, lyrics, "
            "tempo, key and language. What you set or locked stays as it is.",
            search_aliases=["transcribe", "caption audio", "describe music", "bpm detection", "lyrics"],
            inputs=[
                lm_input(),
                conditioner_input(),
                lm_seed_input("other words", "Every song of a blueprint is heard with this one seed."),
                *sampling_inputs(temperature=0.3),
                socket(SourceType, "source", optional=True, tooltip="The song to listen to, from EncodeSource."),
                socket(
                    BlueprintType,
                    "blueprint",
                    optional=True,
                    tooltip="What you know already. Without a source it must have codes, which are read instead.",
                ),
            ],
            outputs=[
                out(BlueprintType, "blueprint", "The song on paper, for EditBlueprint, SaveBlueprint or DiTSample.")
            ],
        )

    @classmethod
    def execute(
        cls,
        lm: LM,
        conditioner: ConditionerModels,
        seed: int,
        temperature: float,
        top_p: float,
        top_k: int,
        source: Source | None = None,
        blueprint: tuple[Blueprint, ...] | None = None,
    ) -> io.NodeOutput:
        """Codes of the source, else of the blueprint; then what they say."""
        runtime = PlannerRuntime(lm_wire(lm))
        wire("conditioner", conditioner, ConditionerModels, "Load DiT")
        if source is not None:
            wire("source", source, Source, "EncodeSource")
        options = UnderstandOptions(seed, TokenSampling(temperature, top_p, top_k))
        drafts = checked_songs((Blueprint(),) if blueprint in (None, ()) else blueprint)
        heard = source_codes(runtime, conditioner, source) if source else None
        codes = {draft: _codes_of(draft, heard) for draft in drafts}  # equal drafts are one question
        answers = {draft: understand(runtime, lm, read, draft, options) for draft, read in codes.items()}
        songs = tuple(answers[draft] for draft in drafts)
        counts = " or ".join(dict.fromkeys(str(len(read)) for read in codes.values()))
        origin = f"read: {counts} codes of the {'source' if source else 'blueprint'}"
        return io.NodeOutput(
            songs, ui=report(origin, *describe_songs(songs), *_kept(drafts, songs, codes), *runtime.manner())
        )


def _codes_of(song: Blueprint, heard: tuple[int, ...] | None) -> tuple[int, ...]:
    codes = heard or song.codes
    if not codes:
        raise ValueError(
            "source: nothing to listen to; connect a source from EncodeSource, or a blueprint that has codes "
            "(from WriteCodes, or put into it by EditBlueprint)"
        )
    return codes


def _kept(
    drafts: Sequence[Blueprint], songs: Sequence[Blueprint], codes: Mapping[Blueprint, tuple[int, ...]]
) -> tuple[str, ...]:
    """What of the sound did not become the song's, and why."""
    full = [describe_full(*gaps(draft), "all that can be heard") for draft in drafts]
    notes = [describe_heard(draft, song, codes[draft]) for draft, song in zip(drafts, songs, strict=True)]
    return (*told_together(full), *told_together(notes))


def _codes_seed() -> Any:
    return lm_seed_input("other codes", "Song 2 of a batch takes seed + 1, song 3 seed + 2 and so on.")


def _codes_inputs() -> list[Any]:
    return [
        decimal(
            "guidance",
            2.0,
            (1.0, MOST_GUIDANCE, 0.1),
            "How closely the codes follow the blueprint; 1.5 to 3 is usual. 1 = off, which is a little faster.",
        ),
        socket(
            io.String,
            "negative",
            default="",
            advanced=True,
            tooltip="What guidance pushes away from, in words, 4096 characters at most. Empty: from nothing in "
            "particular, as trained.",
        ),
        *sampling_inputs(min_p=True),
        socket(
            io.Combo,
            "ending",
            options=list(ENDINGS),
            default=ENDINGS[0],
            advanced=True,
            tooltip="exact: as many codes as the song is long. natural: one song may end by itself in its last fifth, "
            "and is then shorter.",
        ),
        socket(
            io.Combo,
            "prompt_format",
            options=list(FORMATS),
            default=FORMATS[0],
            advanced=True,
            tooltip="trained: the prompt that the planner was trained with. legacy: that of older versions of ACE-Step "
            "and of ComfyUI's own nodes, to compare with them.",
        ),
    ]


def _after_inputs() -> list[Any]:
    return [
        socket(
            SourceType,
            "after",
            optional=True,
            tooltip="A song to go on from: the new codes follow those of its end. From EncodeSource or LatentSource; "
            "the blueprint is that of the new part, for Extend.",
        ),
        socket(
            Conditioner,
            "conditioner",
            optional=True,
            tooltip="Only with after: what reads its codes, from the conditioner output of Load DiT.",
        ),
        context_input("Only with after: how many seconds of its end the planner hears. As in Extend.", optional=True),
    ]
