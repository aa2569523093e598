"""TrainingOptions: every setting of a training that TrainLoRA does not have itself."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..acestep_models.training.objective import WEIGHTINGS
from ..acestep_models.training.optimizers import NAMES as OPTIMIZERS
from ..acestep_models.training.options import DURATIONS, RECOMPUTE, TrainOptions
from ..acestep_models.training.times import KINDS as TIMES
from .host.schema import io, out, report, schema, socket
from .train_inputs import MAX_STEPS, in_words
from .types import Training
from .widgets import AUTO_NUMBER, answer, decimal, given, one_of

USUAL, MOST, AUTO = TrainOptions(), 4096, float(AUTO_NUMBER)
TARGETS = {
    "attention": ("self_attention", "cross_attention"),
    "attention and mlp": ("self_attention", "cross_attention", "mlp"),
    "self attention": ("self_attention",),
    "cross attention": ("cross_attention",),
    "mlp": ("mlp",),
}
_LISTS = {
    "targets": tuple(TARGETS),
    "optimizer": OPTIMIZERS,
    "times": tuple(TIMES),
    "weighting": tuple(WEIGHTINGS),
    "duration": DURATIONS,
    "recompute": RECOMPUTE,
}
_OF_THE_RUN = ("kind", "rank", "steps", "learning_rate", "seed")  # TrainLoRA's own


class TrainingOptions(io.ComfyNode):
    """Node "ACEStepTrainingOptions"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Everything that a preset chooses otherwise; all may stay as it is."""
        return schema(
            node_id="ACEStepTrainingOptions",
            display_name="ACE-Step 1.5 Training Options",
            description="Every setting of a training that Train LoRA does not have itself, in place of those of its "
            "preset. Leave it out if you do not know that you need it.",
            search_aliases=["training settings", "optimizer", "prodigy", "adamw", "batch", "finetune settings"],
            inputs=[*_adapter(), *_course(), *_objective(), *_songs(), *_looks()],
            outputs=[out(Training, "options", "For the options input of Train LoRA.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        targets: Any = None,
        optimizer: Any = None,
        times: Any = None,
        weighting: Any = None,
        duration: Any = None,
        recompute: Any = None,
    ) -> Any:
        """A word that is in no list is said before anything runs; links arrive as None."""
        words = (targets, optimizer, times, weighting, duration, recompute)

        def check() -> None:
            for (name, known), word in zip(_LISTS.items(), words, strict=True):
                if word is not None:
                    one_of(name, word, known)

        return answer(check)

    @classmethod
    def execute(
        cls,
        targets: str,
        alpha: float,
        dropout: float,
        factor: int,
        batch: int,
        accumulation: int,
        optimizer: str,
        weight_decay: float,
        clip: float,
        ema: float,
        times: str,
        shift: float,
        mu: float,
        sigma: float,
        condition_dropout: float,
        hint_share: float,
        weighting: str,
        crop_seconds: float,
        duration: str,
        recompute: str,
        warmup: int,
        checkpoint_every: int,
        keep: int,
        validate_every: int,
        validation_points: int,
        validation_songs: int,
        sample_every: int,
    ) -> io.NodeOutput:
        """The options, checked; what TrainLoRA has itself is put in there."""
        options = TrainOptions(
            targets=TARGETS[one_of("targets", targets, tuple(TARGETS))],
            alpha=given(alpha),
            dropout=dropout,
            factor=factor,
            batch=batch,
            accumulation=accumulation,
            optimizer=optimizer,
            weight_decay=weight_decay,
            clip=clip,
            ema=ema,
            times=times,
            shift=given(shift),
            mu=mu,
            sigma=sigma,
            condition_dropout=given(condition_dropout),
            hint_share=hint_share,
            weighting=weighting,
            crop_seconds=crop_seconds,
            duration=duration,
            recompute=recompute,
            warmup=given(warmup),
            checkpoint_every=checkpoint_every,
            keep=keep,
            validate_every=validate_every,
            validation_points=validation_points,
            validation_songs=validation_songs,
            sample_every=sample_every,
            steps=MAX_STEPS + 1,  # any warm-up is shorter; TrainLoRA knows the real number and checks again
        )
        return io.NodeOutput(options, ui=report(changes_line(options)))


def changes_line(options: TrainOptions) -> str:
    """What is not as it usually is."""
    names = [field.name for field in fields(options) if field.name not in _OF_THE_RUN]
    other = [name for name in names if getattr(options, name) != getattr(USUAL, name)]
    told = ", ".join(f"{name} {in_words(getattr(options, name))}" for name in other)
    return f"not as usual: {told}" if told else "all as usual"


def _adapter() -> list[Any]:
    return [
        _list("targets", "The parts of every layer that learn."),
        decimal(
            "alpha", AUTO, (AUTO, 100_000.0, 0.5), "The strength is alpha / rank. -1: alpha = rank.", advanced=True
        ),
        decimal("dropout", USUAL.dropout, (0.0, 0.99, 0.01), "Part of its input that a LoRA misses.", advanced=True),
        _whole("factor", (-1, MOST), "Of a lokr: the size of its small factor. -1: chosen.", advanced=True),
    ]


def _course() -> list[Any]:
    return [
        _whole("batch", (1, MOST), "Songs at once. More need more memory."),
        _whole("accumulation", (1, MOST), "Batches one after another in each step."),
        _list(
            "optimizer",
            "adamw8bit needs bitsandbytes and a card, and saves a little memory. prodigy finds the learning rate by "
            "itself: leave that of Train LoRA at 0.",
        ),
        decimal("weight_decay", USUAL.weight_decay, (0.0, 1.0, 0.001), "Pull towards no change.", advanced=True),
        decimal("clip", USUAL.clip, (0.0, 1000.0, 0.1), "The longest gradient. 0: as it is.", advanced=True),
        decimal("ema", USUAL.ema, (0.0, 0.9999, 0.0001), "Average of the weights over steps. 0: none.", advanced=True),
    ]


def _objective() -> list[Any]:
    return [
        _list("times", "The noise that is learned from. auto: what the variant of the model was made with.", True),
        decimal("shift", AUTO, (AUTO, 100.0, 0.1), "Of discrete and uniform times. -1: the variant's.", advanced=True),
        decimal("mu", USUAL.mu, (-10.0, 10.0, 0.1), "Middle of logit-normal and reference times.", advanced=True),
        decimal("sigma", USUAL.sigma, (0.0, 10.0, 0.1), "Spread of logit-normal and reference times.", advanced=True),
        decimal(
            "condition_dropout",
            AUTO,
            (AUTO, 1.0, 0.01),
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
        _list("weighting", "Of the loss over times.", True),
    ]


def _songs() -> list[Any]:
    return [
        decimal(
            "crop_seconds",
            USUAL.crop_seconds,
            (0.0, 600.0, 0.4),
            "Length of the pieces that are learned, another each time: less memory and time. 0: whole songs.",
        ),
        _list("duration", "The length that the words say: the song's, or the crop's.", True),
        _list(
            "recompute",
            "on: layers are computed twice, which needs far less memory and half as much time again. auto: where the "
            "memory needs it.",
        ),
        socket(
            io.Int,
            "warmup",
            default=AUTO_NUMBER,
            min=AUTO_NUMBER,
            max=MAX_STEPS,
            advanced=True,
            tooltip="Steps until the full learning rate. -1: a tenth of all, at most 100.",
        ),
    ]


def _looks() -> list[Any]:
    return [
        _whole("checkpoint_every", (1, MAX_STEPS), "Steps. A crash loses at most so many.", advanced=True),
        _whole("keep", (1, 1000), "The last so many checkpoints stay, and the best.", advanced=True),
        _whole("validate_every", (0, MAX_STEPS), "Steps between looks at one fixed noise. 0: none.", advanced=True),
        _whole("validation_points", (0, 1000), "Noises that such a look is the mean of. 0: none.", advanced=True),
        _whole(
            "validation_songs",
            (0, 1000),
            "Songs that are only validated on. 0: the loss is of songs that are learned.",
            advanced=True,
        ),
        _whole("sample_every", (0, MAX_STEPS), "Steps between samples, in the run's folder. 0: none."),
    ]


def _list(name: str, tooltip: str, advanced: bool = False) -> Any:
    """A list whose default is what the trainer's is, else its first."""
    listed = list(_LISTS[name])
    usual = getattr(USUAL, name)
    default = usual if usual in listed else listed[0]
    return socket(io.Combo, name, options=listed, default=default, tooltip=tooltip, advanced=advanced)


def _whole(name: str, bounds: tuple[int, int], tooltip: str, advanced: bool = False) -> Any:
    """A whole number with (lowest, highest); its default is the trainer's."""
    low, high = bounds
    default = getattr(USUAL, name)
    return socket(io.Int, name, default=default, min=low, max=high, tooltip=tooltip, advanced=advanced)
