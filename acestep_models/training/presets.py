"""Options that fit a card, and how long a run takes: figures computed from sizes, not measured (spec/lora.md §5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from .options import TrainOptions


class _Row(TypedDict):
    rank: int
    steps: int
    batch: int
    recompute: str


class Preset(_Row, total=False):
    """Values of TrainOptions that memory or time depend on; what is not named is the user's own."""

    targets: tuple[str, ...]


# All take whole songs of up to 240 s.
PRESETS: dict[str, Preset] = {
    "8 GB": {"rank": 32, "steps": 600, "batch": 1, "recompute": "on"},
    "12 GB": {"rank": 64, "steps": 600, "batch": 1, "recompute": "on"},
    "16 GB": {"rank": 64, "steps": 800, "batch": 1, "recompute": "auto"},
    "24 GB": {
        "rank": 64,
        "steps": 1000,
        "batch": 1,
        "recompute": "auto",
        "targets": ("self_attention", "cross_attention", "mlp"),
    },
}

# TFLOP of one micro-step of the 2B decoder by seconds of song (spec/lora.md §5.2): forward, whole, whole recomputed.
_WORK = {
    0: (0.0, 0.0, 0.0),
    60: (2.4, 5.0, 7.4),
    120: (4.9, 10.4, 15.4),
    180: (7.6, 16.3, 24.1),
    240: (10.5, 22.8, 33.6),
}
# TFLOP a second that a card really does, and the seconds that starting its kernels takes at least.
CARDS = {"3090": (30.0, 0.1), "A100": (120.0, 0.1), "H200": (350.0, 0.08), "16-core CPU": (0.5, 0.0)}
# On a 3090; a labelled song is the longest of §5.2's "10 to 60 s".
ENCODING_SECONDS, LABELLING_SECONDS = 10.0, 60.0


def seconds_a_step(song_seconds: float, recompute: bool, card: str = "3090") -> float:
    """Computed seconds of one micro-step (one item, forward and backward) with the 2B decoder.

    Raises:
        ValueError: for a card that is not in CARDS.
    """
    return _on(card, _work(song_seconds)[2 if recompute else 1])


@dataclass(frozen=True)
class Duration:
    """The computed seconds of a run, part by part; `lines` is the arithmetic in words."""

    training: float
    validation: float
    encoding: float
    labelling: float
    lines: tuple[str, ...]

    @property
    def total(self) -> float:
        """Seconds of all of it."""
        return self.training + self.validation + self.encoding + self.labelling


def duration(
    preset: str, songs: int = 8, song_seconds: float = 240.0, card: str = "3090", validations: int = 13, points: int = 8
) -> Duration:
    """How long a preset takes with so many songs of so many seconds: an upper end, every song the longest.

    `validations` times `points` passes without gradient are the fixed grid (every 50 of 600 steps, and one before).
    """
    row = PRESETS[preset]
    steps, items = row["steps"], row["batch"] * TrainOptions().accumulation
    step = seconds_a_step(song_seconds, row["recompute"] == "on", card)
    look = _on(card, _work(song_seconds)[0])
    found = (steps * items * step, validations * points * look, songs * ENCODING_SECONDS, songs * LABELLING_SECONDS)
    lines = (
        f"training: {steps} steps x {items} micro-steps x {step:.2f} s = {found[0]:.0f} s",
        f"validation: {validations} x {points} passes x {look:.2f} s = {found[1]:.0f} s",
        f"encoding: {songs} songs x {ENCODING_SECONDS:.0f} s = {found[2]:.0f} s",
        f"labelling: {songs} songs x {LABELLING_SECONDS:.0f} s = {found[3]:.0f} s",
        f"total: {sum(found):.0f} s = {sum(found) / 60:.1f} minutes (computed for a {card})",
    )
    return Duration(*found, lines)


def _on(card: str, work: float) -> float:
    if card not in CARDS:
        raise ValueError(f"card: expected one of {', '.join(CARDS)}, got {card!r}")
    speed, least = CARDS[card]
    return max(work / speed, least)


def _work(seconds: float) -> tuple[float, ...]:
    """TFLOP by straight lines between the rows, the last one going on."""
    marks = sorted(_WORK)
    upper = next((mark for mark in marks[1:] if seconds <= mark), marks[-1])
    lower = marks[marks.index(upper) - 1]
    part = (seconds - lower) / (upper - lower)
    return tuple(low + part * (high - low) for low, high in zip(_WORK[lower], _WORK[upper], strict=True))
