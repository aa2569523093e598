"""What the decoder can be asked to do, and what each released variant of it expects: one row each.

Instructions are read by the text encoder letter for letter (spec/audio.md §4.3); a variant's numbers
are its own training settings (spec/audio.md §1.1).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One thing the decoder can do.

    `instruction` is the sentence that the text encoder reads; `variants` says which decoders were trained for it.
    """

    instruction: str
    variants: frozenset[str]


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

TASKS: dict[str, Task] = {
    "text2music": Task("Fill the audio semantic mask based on the given conditions:", ALL_VARIANTS),
    "text2music+codes": Task("Generate audio semantic tokens based on the given conditions:", ALL_VARIANTS),
}


def variant_named(name: str) -> Variant:
    """The row of VARIANTS.

    Raises:
        ValueError: for a name that is not in the table.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]
