"""What the decoder can be asked to do, and what each released variant of it expects: one row each.

Instructions are read by the text encoder letter for letter (spec/audio.md §4.3); a variant's numbers
are its own training settings (spec/audio.md §1.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Row = TypeVar("Row")

# What can be taken out of a mix or put into it (spec/audio.md §4.3); models know them by exactly these words.
TRACKS = (
    "woodwinds",
    "brass",
    "fx",
    "synth",
    "strings",
    "percussion",
    "keyboard",
    "guitar",
    "bass",
    "drums",
    "backing_vocals",
    "vocals",
)
TRACK_PLACE = "{tracks}"


@dataclass(frozen=True)
class Task:
    """One thing the decoder can do (spec/audio.md §4.3, §5.2); its name is its key in TASKS.

    Attributes:
        instruction: the sentence that the text encoder reads; "{tracks}" where tracks are named.
        bare: that sentence when no track is named.
        most_tracks: how many tracks it can be given at once.
        needs: what it works on: nothing, a blueprint's codes, or a source.
        hints: the context says what codes sound like: the blueprint's, or those of the source.
        spans: in how many parts of the source alone it can write; elsewhere it is everywhere.
        blanks: those parts of the source are silence to it.
        variants: decoders that were trained for it.
        warned: decoders that were not, but may try.
    """

    instruction: str
    bare: str
    variants: frozenset[str]
    warned: frozenset[str] = frozenset()
    most_tracks: int = 0
    needs: Literal["nothing", "codes", "source"] = "nothing"
    hints: bool = False
    spans: Literal["none", "one", "many"] = "none"
    blanks: bool = False


@dataclass(frozen=True)
class Variant:
    """The settings a released decoder was made for; every `auto` of the nodes ends here.

    `distilled` decoders have their guidance built in and take few steps; other values of shift than from the first to
    the second of `shifts` are worth a warning.
    """

    steps: int
    shift: float
    guidance: float
    distilled: bool
    snaps_times: bool = False
    shifts: tuple[float, float] = (1.0, 5.0)


VARIANTS: dict[str, Variant] = {
    "base": Variant(steps=50, shift=1.0, guidance=7.0, distilled=False),
    "sft": Variant(steps=50, shift=1.0, guidance=7.0, distilled=False),
    "turbo": Variant(steps=8, shift=3.0, guidance=1.0, distilled=True, snaps_times=True),
    "turbo-shift1": Variant(steps=8, shift=1.0, guidance=1.0, distilled=True, snaps_times=True, shifts=(1.0, 1.0)),
    "turbo-shift3": Variant(steps=8, shift=3.0, guidance=1.0, distilled=True, snaps_times=True, shifts=(3.0, 3.0)),
    "turbo-continuous": Variant(steps=8, shift=3.0, guidance=1.0, distilled=True),
}

ALL_VARIANTS = frozenset(VARIANTS)

BASE_ONLY, NEAR_BASE = frozenset({"base"}), frozenset({"sft"})
EXAMPLE = "acestep_v1.5_base.safetensors"  # a released file of a variant that can do every task

_FILL = "Fill the audio semantic mask based on the given conditions:"
_FOLLOW = "Generate audio semantic tokens based on the given conditions:"
_REPAINT = "Repaint the mask area based on the given conditions:"

TASKS: dict[str, Task] = {
    "text2music": Task(_FILL, _FILL, ALL_VARIANTS),
    "text2music+codes": Task(_FOLLOW, _FOLLOW, ALL_VARIANTS, needs="codes", hints=True),
    "cover": Task(_FOLLOW, _FOLLOW, ALL_VARIANTS, needs="source", hints=True),
    "cover-faithful": Task(_FOLLOW, _FOLLOW, ALL_VARIANTS, needs="source"),
    "repaint": Task(_REPAINT, _REPAINT, ALL_VARIANTS, needs="source", spans="many", blanks=True),
    "extract": Task(
        f"Extract the {TRACK_PLACE} track from the audio:",
        "Extract the track from the audio:",
        BASE_ONLY,
        NEAR_BASE,
        most_tracks=1,
        needs="source",
    ),
    "lego": Task(
        f"Generate the {TRACK_PLACE} track based on the audio context:",
        "Generate the track based on the audio context:",
        BASE_ONLY,
        NEAR_BASE,
        most_tracks=1,
        needs="source",
        spans="one",
    ),
    "complete": Task(
        f"Complete the input track with {TRACK_PLACE}:",
        "Complete the input track:",
        BASE_ONLY,
        NEAR_BASE,
        most_tracks=len(TRACKS),
        needs="source",
    ),
}


def task_named(name: str) -> Task:
    """The row of TASKS.

    Raises:
        ValueError: for a name that is not in the table.
    """
    return _row("task", TASKS, name)


def instruction(name: str, tracks: Sequence[str] = ()) -> str:
    """What the text encoder reads of a task, byte for byte as in training: tracks in capitals, joined by " | ".

    Raises:
        ValueError: for an unknown task or track, a track named twice, or more tracks than the task takes.
    """
    task = task_named(name)
    for track in tracks:
        if track not in TRACKS:
            raise ValueError(f"{name}: expected tracks out of {', '.join(TRACKS)}, got {track!r}")
    if len(set(tracks)) < len(tracks):
        raise ValueError(f"{name}: every track once, got {', '.join(tracks)}")
    if len(tracks) > task.most_tracks:
        advice = "run them one by one" if task.most_tracks else "leave them out"
        raise ValueError(f"{name}: takes {task.most_tracks or 'no'} track, got {', '.join(tracks)}; {advice}")
    if not tracks:
        return task.bare
    return task.instruction.replace(TRACK_PLACE, " | ".join(track.upper() for track in tracks))


def check_task(name: str, variant: str) -> str:
    """What to say when this variant runs this task: "" for what it was trained for, else a warning.

    Raises:
        ValueError: for an unknown name, and for a variant that can only fail at the task.
    """
    task = task_named(name)
    variant_named(variant)
    if variant in task.variants:
        return ""
    trained = ", ".join(row for row in VARIANTS if row in task.variants)
    if variant in task.warned:
        return f"{name}: the {variant} model was not trained for it and may do it badly; {trained} was"
    raise ValueError(
        f"{name}: the {variant} model cannot do it: load a {trained} model, such as {EXAMPLE}, in Load DiT"
    )


def variant_named(name: str) -> Variant:
    """The row of VARIANTS.

    Raises:
        ValueError: for a name that is not in the table.
    """
    return _row("variant", VARIANTS, name)


def _row(kind: str, table: Mapping[str, Row], name: str) -> Row:
    if name not in table:
        raise ValueError(f"{kind}: expected one of {', '.join(table)}, got {name!r}")
    return table[name]
