"""The widgets of TrainLoRA, and the options that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..acestep_models.training.objective import WEIGHTINGS
from ..acestep_models.training.optimizers import NAMES as OPTIMIZERS
from ..acestep_models.training.options import DURATIONS, RECOMPUTE, TrainOptions
from ..acestep_models.training.presets import PRESETS
from ..acestep_models.training.times import KINDS as TIMES
from ..acestep_models.training.trainable import KINDS
from .host.schema import io, socket
from .widgets import AUTO_NUMBER, decimal, one_of, seed_socket

OWN = "own"
PRESET_NAMES = (OWN, *PRESETS)
TARGETS = {
    "attention": ("self_attention", "cross_attention"),
    "attention and mlp": ("self_attention", "cross_attention", "mlp"),
    "self attention": ("self_attention",),
    "cross attention": ("cross_attention",),
    "mlp": ("mlp",),
}
RESUME, NEW = "resume", "new"
IF_THERE = (RESUME, NEW)
USUAL = TrainOptions()
AUTO_STEPS, MAX_RANK, MAX_STEPS, MOST = 0, 1024, 1_000_000, 4096
# Where -1 is what the trainer chooses.
_CHOSEN = ("alpha", "shift", "condition_dropout")
_OPTIONS = tuple(field.name for field in fields(TrainOptions))


def options_of(preset: str, widgets: Mapping[str, Any]) -> TrainOptions:
    """The options that widgets say; what a preset says goes before them, but for steps that are given.

    Raises:
        ValueError: names the widget, its value and what it may be.
    """
    one_of("preset", preset, PRESET_NAMES)
    given = {name: value for name, value in widgets.items() if name in _OPTIONS}
    given["targets"] = TARGETS[one_of("targets", widgets["targets"], tuple(TARGETS))]
    given |= {name: None for name in _CHOSEN if given[name] == AUTO_NUMBER}
    steps = given.pop("steps") or None
    given |= {} if preset == OWN else dict(PRESETS[preset])
    given |= {} if steps is None else {"steps": steps}
    return TrainOptions(**given)


def preset_line(preset: str) -> str:
    """What a preset set, whatever the widgets say."""
    if preset == OWN:
        return ""
    told = {name: value for name, value in PRESETS[preset].items() if name != "steps"}
    return f"preset {preset}: {', '.join(f'{name} {_shown(value)}' for name, value in told.items())}"


def _shown(value: Any) -> str:
    return " and ".join(value).replace("_", " ") if isinstance(value, tuple) else str(value)


def train_inputs() -> list[Any]:
    """Every widget, in the order that workflows save them in: new ones go to the end."""
    return [*_main(), *_adapter(), *_course(), *_objective(), *_songs(), *_looks()]


def _main() -> list[Any]:
    return [
        socket(
            io.String,
            "name",
            default="my_style",
            tooltip="Of the run, whose folder is acestep_lora/NAME in ComfyUI's output folder, and of the LoRA in its "
            "loras folder, where a number is added.",
        ),
        _list(
            "preset",
            PRESET_NAMES,
            "For a card of so much memory: what it sets goes before the widgets of the same name but steps, and the "
            f"report says what that was. {OWN}: the widgets alone count.",
        ),
        _list("kind", KINDS, "lora: the usual one. lokr: smaller files of Kronecker products."),
        _whole("rank", (1, MAX_RANK), "How much the adapter can hold. A higher one learns more and needs more memory."),
        socket(
            io.Int,
            "steps",
            default=AUTO_STEPS,
            min=AUTO_STEPS,
            max=MAX_STEPS,
            tooltip="Of the optimizer, each over batch x accumulation songs. More learns the songs closer, in the end "
            f"by heart. 0: as the preset says; without one {USUAL.steps}.",
        ),
        decimal("learning_rate", USUAL.learning_rate, (0.0, 1.0, 0.000001), "How far a step goes. Prodigy: 1."),
        seed_socket("seed", "Another number: another start, order, noise and crops."),
        _list(
            "if_there",
            IF_THERE,
            "resume: a run of this name goes on where it was, or gives its result at once if it is done; its settings "
            "and songs must be the same. new: a folder of its own, NAME_2 and so on.",
        ),
    ]


def _adapter() -> list[Any]:
    auto = float(AUTO_NUMBER)
    return [
        _list("targets", TARGETS, "The parts of every layer that learn.", advanced=True),
        decimal(
            "alpha", auto, (auto, 100_000.0, 0.5), "The strength is alpha / rank. -1: alpha = rank.", advanced=True
        ),
        decimal("dropout", USUAL.dropout, (0.0, 0.99, 0.01), "Part of its input that a LoRA misses.", advanced=True),
        _whole("factor", (-1, MOST), "Of a lokr: the size of its small factor. -1: chosen.", advanced=True),
    ]


def _course() -> list[Any]:
    return [
        _whole("batch", (1, MOST), "Songs at once. More need more memory.", advanced=True),
        _whole("accumulation", (1, MOST), "Batches one after another in each step.", advanced=True),
        _list(
            "optimizer",
            OPTIMIZERS,
            "adamw8bit needs bitsandbytes and a card, and saves a little memory. prodigy finds the learning rate by "
            "itself: set it to 1.",
            advanced=True,
        ),
        decimal("weight_decay", USUAL.weight_decay, (0.0, 1.0, 0.001), "Pull towards no change.", advanced=True),
        decimal("clip", USUAL.clip, (0.0, 1000.0, 0.1), "The longest gradient. 0: as it is.", advanced=True),
        decimal("ema", USUAL.ema, (0.0, 0.9999, 0.0001), "Average of the weights over steps. 0: none.", advanced=True),
    ]


def _objective() -> list[Any]:
    auto = float(AUTO_NUMBER)
    return [
        _list(
            "times",
            TIMES,
            "The noise that is learned from. auto: what the variant of the model was made with.",
            advanced=True,
        ),
        decimal("shift", auto, (auto, 100.0, 0.1), "Of discrete and uniform times. -1: the variant's.", advanced=True),
        decimal("mu", USUAL.mu, (-10.0, 10.0, 0.1), "Middle of logit-normal and reference times.", advanced=True),
        decimal("sigma", USUAL.sigma, (0.0, 10.0, 0.1), "Spread of logit-normal and reference times.", advanced=True),
        decimal(
            "condition_dropout",
            auto,
            (auto, 1.0, 0.01),
            "Share of songs that are learned without words, which guidance needs. -1: 0.15, with discrete times 0.",
            advanced=True,
        ),
        decimal(
            "hint_share",
            USUAL.hint_share,
            (0.0, 1.0, 0.05),
            "Share of songs that are learned as those with audio codes are made. 0: only without.",
            advanced=True,
        ),
        _list("weighting", WEIGHTINGS, "Of the loss over times.", advanced=True),
    ]


def _songs() -> list[Any]:
    return [
        decimal(
            "crop_seconds",
            USUAL.crop_seconds,
            (0.0, 600.0, 0.4),
            "Length of the pieces that are learned, another each time: less memory and time. 0: whole songs.",
            advanced=True,
        ),
        _list("duration", DURATIONS, "The length that the words say: the song's, or the crop's.", advanced=True),
        _list(
            "recompute",
            RECOMPUTE,
            "on: layers are computed twice, which needs far less memory and half as much time again. auto: where the "
            "memory needs it.",
            advanced=True,
        ),
    ]


def _looks() -> list[Any]:
    return [
        _whole("checkpoint_every", (1, MAX_STEPS), "Steps. A crash loses at most so many.", advanced=True),
        _whole("keep", (1, 1000), "The last so many checkpoints stay, and the best.", advanced=True),
        _whole("validate_every", (0, MAX_STEPS), "Steps between looks at one fixed noise. 0: none.", advanced=True),
        _whole(
            "validation_songs",
            (0, 1000),
            "Songs that are only validated on. 0: the loss is of songs that are learned.",
            advanced=True,
        ),
        _whole("sample_every", (0, MAX_STEPS), "Steps between samples, in the run's folder. 0: none.", advanced=True),
    ]


def _list(name: str, options: Any, tooltip: str, advanced: bool = False) -> Any:
    """A list whose default is what the trainer's is, else its first."""
    listed = list(options)
    usual = getattr(USUAL, name, None)
    default = usual if usual in listed else listed[0]
    return socket(io.Combo, name, options=listed, default=default, tooltip=tooltip, advanced=advanced)


def _whole(name: str, bounds: tuple[int, int], tooltip: str, advanced: bool = False) -> Any:
    """A whole number with (lowest, highest); its default is the trainer's."""
    low, high = bounds
    default = getattr(USUAL, name)
    return socket(io.Int, name, default=default, min=low, max=high, tooltip=tooltip, advanced=advanced)
