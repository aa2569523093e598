"""The widgets of TrainLoRA, and the options that they and a preset, or TrainingOptions, make together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..acestep_models.training.optimizers import ADAMW, PRODIGY, USUAL_RATES
from ..acestep_models.training.options import TrainOptions
from ..acestep_models.training.presets import PRESETS
from ..acestep_models.training.trainable import KINDS
from .host.schema import io, socket
from .types import Training
from .widgets import decimal, one_of, seed_socket

PRESET_NAMES, DEFAULT_PRESET = tuple(PRESETS), "12 GB"
RESUME, NEW, USE = "resume", "new", "use"
IF_THERE = (RESUME, NEW, USE)
OF_PRESET, MAX_RANK, MAX_STEPS = 0, 1024, 1_000_000


def options_of(
    preset: str, kind: str, rank: int, steps: int, learning_rate: float, seed: int, options: TrainOptions | None
) -> TrainOptions:
    """All options of a run: connected ones, else the preset's, with what the widgets of TrainLoRA say.

    A rank, or steps, of 0 is the preset's; a learning rate of 0 is the usual one of the optimizer.

    Raises:
        ValueError: names the widget, its value and what it may be.
    """
    row = TrainOptions.from_json(PRESETS[one_of("preset", preset, PRESET_NAMES)])
    base = row if options is None else options
    return replace(
        base,
        kind=one_of("kind", kind, tuple(KINDS)),
        rank=row.rank if rank == OF_PRESET else rank,
        steps=row.steps if steps == OF_PRESET else steps,
        learning_rate=learning_rate or None,
        seed=seed,
    )


def preset_line(preset: str, rank: int, steps: int, connected: bool) -> str:
    """What the preset has set: with TrainingOptions connected only what is 0 on the node."""
    asked = {"rank": rank, "steps": steps}
    row = {name: value for name, value in PRESETS[preset].items() if name != "kind"}
    counts = [name for name in row if asked.get(name, OF_PRESET) == OF_PRESET and (name in asked or not connected)]
    told = ", ".join(f"{name} {in_words(row[name])}" for name in counts) or "nothing"
    return f"preset {preset}: {told}" + ("; all else as Training Options says" if connected else "")


def in_words(value: Any) -> str:
    """A value of an option: "self attention and mlp", "0.1", "auto" where it is chosen."""
    if value is None:
        return "auto"
    return " and ".join(value).replace("_", " ") if isinstance(value, tuple | list) else str(value)


def train_inputs() -> list[Any]:
    """Every widget, in the order that workflows save them in, and the wire for the rest."""
    return [*_what(), *_how(), _if_there(), _options()]


def _what() -> list[Any]:
    return [
        socket(
            io.String,
            "name",
            default="my_style",
            tooltip="Of the run, whose folder is acestep_lora/NAME in ComfyUI's output folder, and of the LoRA in its "
            "loras folder, where a number is added.",
        ),
        socket(
            io.Combo,
            "preset",
            options=list(PRESET_NAMES),
            default=DEFAULT_PRESET,
            tooltip="The memory of your card. It sets rank, steps and the rest; the report says to what. With Training "
            "Options connected it only counts for a rank or steps of 0.",
        ),
        socket(
            io.Combo,
            "kind",
            options=list(KINDS),
            default=next(iter(KINDS)),
            tooltip="lora: the usual one. lokr: smaller files of Kronecker products.",
        ),
    ]


def _how() -> list[Any]:
    rates = f"{USUAL_RATES[ADAMW]:g}, for Prodigy {USUAL_RATES[PRODIGY]:g}"
    return [
        _whole(
            "rank",
            MAX_RANK,
            "How much the adapter can hold. A higher one learns more and needs more memory. 0: the preset's, also with "
            "Training Options connected.",
        ),
        _whole(
            "steps",
            MAX_STEPS,
            "More learns the songs closer, in the end by heart. 0: the preset's, also with Training Options connected.",
        ),
        decimal(
            "learning_rate",
            float(OF_PRESET),
            (0.0, 10.0, 0.000001),
            f"How far a step goes. 0: the usual one of the optimizer, {rates}.",
        ),
        seed_socket("seed", "Another number: another start, order, noise and crops."),
    ]


def _if_there() -> Any:
    return socket(
        io.Combo,
        "if_there",
        options=list(IF_THERE),
        default=RESUME,
        tooltip="resume: a run of this name goes on where it was, or gives its result at once if it is done; its "
        "settings and songs must be the same. new: a folder of its own, NAME_2 and so on. use: the result of the run "
        "of this name, finished or stopped and kept; nothing is trained.",
    )


def _options() -> Any:
    return socket(
        Training,
        "options",
        optional=True,
        tooltip="From Training Options, for all other settings. Not connected: what the preset says.",
    )


def _whole(name: str, highest: int, tooltip: str) -> Any:
    """A whole number, of the preset unless it is given."""
    return socket(io.Int, name, default=OF_PRESET, min=OF_PRESET, max=highest, tooltip=tooltip)
