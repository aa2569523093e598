"""Parts of a sound in another order, and two sounds one after the other.

Everything works on the last dimension, so a waveform [B, C, N] in samples and latents [B, 64, T] in frames are the
same thing here.

A crossfade of f places goes through x = k / (f + 1), k = 1 to f, and weighs what ends with out(x), what begins with
in(x):

    linear:       out = 1 - x,         in = x            (their sum is 1: right for parts that are alike)
    equal power:  out = cos(pi x / 2), in = sin(pi x / 2) (their squares' sum is 1: right for parts that are not)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Curve = Literal["linear", "equal power"]
CURVES: tuple[Curve, ...] = ("linear", "equal power")
Part = tuple[int, int]


@dataclass(frozen=True)
class Fade:
    """A crossfade of so many places.

    Raises:
        ValueError: for less than none, or an unknown curve.
    """

    places: int
    curve: Curve = "linear"

    def __post_init__(self) -> None:
        if self.places < 0:
            raise ValueError(f"crossfade: expected 0 or more, got {self.places}")
        if self.curve not in CURVES:
            raise ValueError(f"curve: expected one of {', '.join(CURVES)}; got {self.curve!r}")


def weights(places: int, curve: Curve) -> tuple[Tensor, Tensor]:
    """(what ends, what begins) at each place of a crossfade, [places] each."""
    x = torch.linspace(0.0, 1.0, places + 2, dtype=torch.float64)[1:-1]
    if curve == "linear":
        return (1.0 - x).float(), x.float()
    return (x * (math.pi / 2)).cos().float(), (x * (math.pi / 2)).sin().float()


def arrange(values: Tensor, parts: Iterable[Part], fade: Fade, dip: bool = True) -> Tensor:
    """The parts [start, end) of `values` [..., N], one after the other: exactly as long as they are together.

    A crossfade takes what lies outside of the parts: what ends sounds on beyond its end, and what begins is heard
    before its start, half and half, or more of the one where there is no more of the other, and at most half of a
    part. So nothing shifts, and a loop stays in time. Where the values end and begin just there, there is nothing to
    mix: what ends is faded out and what begins is faded in (`dip`), or they are cut hard. Parts that follow each other
    in `values` stay joined as they are.

    Raises:
        ValueError: for no part, or one that is empty or outside of `values`.
    """
    pieces = _whole(parts, values.shape[-1])
    made = torch.cat([values[..., start:end] for start, end in pieces], dim=-1)
    seam = 0
    for first, second in zip(pieces, pieces[1:], strict=False):
        seam += first[1] - first[0]
        before, behind = _reach(values.shape[-1], first, second, fade.places)
        if before + behind:
            ends = values[..., first[1] - before : first[1] + behind]
            begins = values[..., second[0] - before : second[0] + behind]
            made[..., seam - before : seam + behind] = _mix(ends, begins, fade.curve)
        elif dip:
            _dip(made, seam, min(fade.places, first[1] - first[0], second[1] - second[0]) // 2, fade.curve)
    return made


def _whole(parts: Iterable[Part], total: int) -> list[Part]:
    """The parts, those that continue each other as one."""
    pieces: list[Part] = []
    for start, end in parts:
        if not 0 <= start < end <= total:
            raise ValueError(f"parts: expected places within 0 to {total}, the end after the start; got {start}, {end}")
        if pieces and pieces[-1][1] == start:
            start = pieces.pop()[0]
        pieces.append((start, end))
    if not pieces:
        raise ValueError("parts: expected at least one")
    return pieces


def _reach(total: int, first: Part, second: Part, places: int) -> Part:
    """Places of the crossfade before and behind the seam."""
    before_room = min(second[0], (first[1] - first[0]) // 2)
    behind_room = min(total - first[1], (second[1] - second[0]) // 2)
    before = min(places // 2, before_room)
    behind = min(places - before, behind_room)
    return min(places - behind, before_room), behind


def _mix(ends: Tensor, begins: Tensor, curve: Curve) -> Tensor:
    falling, rising = (part.to(ends) for part in weights(ends.shape[-1], curve))
    return ends * falling + begins * rising


def _dip(made: Tensor, seam: int, places: int, curve: Curve) -> None:
    """Fade what ends at the seam out and what begins there in, in place."""
    falling, rising = (part.to(made) for part in weights(places, curve))
    made[..., seam - places : seam] *= falling
    made[..., seam : seam + places] *= rising


def join(first: Tensor, second: Tensor, fade: Fade) -> Tensor:
    """`second` [..., M] behind `first` [..., N], overlapping for the crossfade: [..., N + M - places].

    Raises:
        ValueError: for a crossfade that is longer than one of them.
    """
    places = fade.places
    if places > min(first.shape[-1], second.shape[-1]):
        raise ValueError(
            f"crossfade: {places} places are more than one of the parts has "
            f"({first.shape[-1]} and {second.shape[-1]}); make it shorter"
        )
    kept = first.shape[-1] - places
    middle = _mix(first[..., kept:], second[..., :places], fade.curve)
    return torch.cat([first[..., :kept], middle, second[..., places:]], dim=-1)
