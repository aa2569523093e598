"""What a training run is told, checked when it is made; defaults are the recommended recipe (spec/lora.md §2.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..units import FRAME_RATE
from .examples import FRAME_STEP
from .objective import WEIGHTINGS
from .optimizers import NAMES as OPTIMIZERS
from .optimizers import PRODIGY, USUAL_RATES
from .times import KINDS as TIMES
from .trainable import KINDS, TARGETS

DURATIONS = ("song", "crop")
RECOMPUTE = ("auto", "on", "off")
_LEAST_PRODIGY = 0.1  # Prodigy finds the size of its steps itself; this only scales it

# What may change when a run goes on: it says how long and how closely to look, not what is learned.
FREE = frozenset({"steps", "recompute", "checkpoint_every", "keep", "validate_every", "sample_every"})

_CHOICES = {
    "kind": tuple(KINDS),
    "optimizer": OPTIMIZERS,
    "times": TIMES,
    "weighting": WEIGHTINGS,
    "duration": DURATIONS,
    "recompute": RECOMPUTE,
}
_AT_LEAST: dict[str, float] = {
    "rank": 1,
    "steps": 1,
    "batch": 1,
    "accumulation": 1,
    "keep": 1,
    "checkpoint_every": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "clip": 0,
    "warmup": 0,
    "sigma": 0,
    "seed": 0,
    "crop_seconds": 0,
    "validate_every": 0,
    "validation_points": 0,
    "validation_songs": 0,
    "sample_every": 0,
}
# 1 itself would drop everything, or average nothing in.
_SHARES = {"dropout": False, "ema": False, "hint_share": True, "condition_dropout": True}
_ABOVE_ZERO = ("alpha", "shift")
_WHOLE = ("int", "int | None")
_MOST = 2**64 - 1  # ComfyUI's largest seed


@dataclass(frozen=True)
class TrainOptions:
    """Every number of a run; see spec/lora.md §1.6 for what others take.

    Attributes:
        kind: "lora" or "lokr"; `factor` is LoKr's, -1 chooses it.
        alpha: the adapter is scaled by alpha / rank; None = rank.
        targets: of "self_attention", "cross_attention", "mlp".
        steps: optimizer steps, each of batch x accumulation songs or crops in every process.
        learning_rate: at its highest; None = what is usual for the optimizer (`optimizers.USUAL_RATES`).
        warmup: steps until the full learning rate; None = the smaller of 100 and a tenth of all.
        clip: the longest gradient; 0 = as it is.
        times: how noise levels are drawn, "auto" = as the variant samples; `mu` and `sigma` are of the logit-normal
            ones, `shift` of "discrete" and "uniform" (None = the variant's).
        condition_dropout: share of songs that are shown no condition; None = 0.15, with discrete times 0.
        hint_share: share of songs that are shown their codes as a song made with a planner is.
        crop_seconds: length of the windows that are learned, 0 = whole songs.
        duration: whether the condition names the length of the "song" or of the "crop".
        recompute: whether layers are computed again in the backward pass, which saves memory.
        ema: decay of an average of the weights that is validated and written, 0 = none.
        keep: checkpoints that stay, besides the best.
        validate_every, sample_every: steps between, 0 = never.
        validation_points: fixed (song, noise, time) that the validation loss is the mean of, 0 = none.
        validation_songs: songs left out of training and validated on; 0 = validated on what is trained.

    Raises:
        ValueError: names the option, its value and what it may be.
    """

    kind: str = "lora"
    rank: int = 64
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("self_attention", "cross_attention")
    factor: int = -1
    steps: int = 1000
    learning_rate: float | None = None
    batch: int = 1
    accumulation: int = 4
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    warmup: int | None = None
    clip: float = 1.0
    times: str = "auto"
    shift: float | None = None
    mu: float = -0.4
    sigma: float = 1.0
    condition_dropout: float | None = None
    hint_share: float = 0.4
    weighting: str = "none"
    crop_seconds: float = 0.0
    duration: str = "song"
    recompute: str = "auto"
    ema: float = 0.0
    seed: int = 0
    checkpoint_every: int = 100
    keep: int = 2
    validate_every: int = 50
    validation_points: int = 8
    validation_songs: int = 0
    sample_every: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for field in fields(self):
            _check_number(field.name, str(field.type), getattr(self, field.name))
        if not self.targets or not set(self.targets) <= set(TARGETS) or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must be some of {', '.join(TARGETS)}, each once, got {list(self.targets)}")
        if self.factor != -1 and self.factor < 1:
            raise ValueError(f"factor must be -1 (chosen) or at least 1, got {self.factor}")
        if 0 < self.crop_seconds and self.crop_frames == 0:
            least = FRAME_STEP / FRAME_RATE
            raise ValueError(f"crop_seconds must be 0 (whole songs) or at least {least:g}, got {self.crop_seconds:g}")

        if self.duration == "crop" and not self.crop_seconds:
            raise ValueError("duration is crop, but crop_seconds is 0 (whole songs): set one of them")
        if self.warmup is not None and self.warmup >= self.steps:
            raise ValueError(f"warmup must be shorter than the {self.steps} steps, got {self.warmup}")

    @property
    def crop_frames(self) -> int:
        """Frames of a window, a multiple of 10; 0 = whole songs."""
        frames = round(self.crop_seconds * FRAME_RATE, 6)  # 9.2 x 25 is 229.99999999999997
        return int(frames) // FRAME_STEP * FRAME_STEP

    @property
    def scale_alpha(self) -> float:
        """The alpha that counts."""
        return float(self.rank if self.alpha is None else self.alpha)

    @property
    def rate(self) -> float:
        """The learning rate that counts."""
        return float(USUAL_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What may be run and is probably not meant, a sentence each."""
        if self.optimizer != PRODIGY or not 0 < self.rate < _LEAST_PRODIGY:
            return ()
        return (
            f"learning_rate is {self.rate:g}, but prodigy finds the size of its steps itself and multiplies it by "
            "this: it will learn next to nothing. 1 is usual.",
        )

    def to_json(self) -> dict[str, Any]:
        """All options as plain values."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Options from plain values; what is not named keeps its default.

        Raises:
            ValueError: for a name that no option has, or a value that does not fit.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"options must be a JSON object, got {type(values).__name__}")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"no option is called {', '.join(unknown)}; there are {', '.join(known)}")
        given = dict(values)
        if "targets" in given:
            given["targets"] = _words(given["targets"])
        return cls(**given)


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"targets must be a list of {', '.join(TARGETS)}, got {value!r}")
    if not all(isinstance(word, str) for word in value):
        raise ValueError(f"targets must be a list of {', '.join(TARGETS)}, got {list(value)!r}")
    return tuple(value)


def _is_small(value: float) -> bool:
    """Finite, and no whole number that other programs could not hold."""
    return -_MOST <= value <= _MOST if isinstance(value, int) else math.isfinite(value)


def _check_number(name: str, kind: str, value: Any) -> None:
    """One field, by its annotation and the tables above."""
    if not kind.startswith(("int", "float")) or (value is None and kind.endswith("None")):
        return
    wanted = int if kind in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not _is_small(value):
        raise ValueError(f"{name} must be a {'whole ' if kind in _WHOLE else ''}number, got {value!r}")
    if name in _AT_LEAST and value < _AT_LEAST[name]:
        raise ValueError(f"{name} must be at least {_AT_LEAST[name]:g}, got {value:g}")
    if name in _ABOVE_ZERO and value <= 0:
        raise ValueError(f"{name} must be above 0, got {value:g}")
    if name in _SHARES and not (0 <= value < 1 or (_SHARES[name] and value == 1)):
        raise ValueError(f"{name} must be from 0 to {'1' if _SHARES[name] else 'below 1'}, got {value:g}")
