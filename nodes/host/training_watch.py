"""What a user sees of a run of training: the picture of the loss, a line with the time left, and samples."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import comfy.model_management as management
import comfy.utils

from ...acestep_models.dit.transformer import DiT
from ...acestep_models.training.job import Point, RunPlan
from .loss_picture import WIDTH, loss_picture
from .runtime import HostRuntime
from .training_samples import SampleMaker

PICTURE, PICTURE_EVERY = "loss.png", 1.0  # seconds


class HostWatcher:
    """The core's `Watcher` for a node of ComfyUI."""

    def __init__(self, runtime: HostRuntime, stop: threading.Event, samples: SampleMaker) -> None:
        self._runtime, self._stop, self._samples = runtime, stop, samples
        self._bar = comfy.utils.ProgressBar(1)
        self._drawn = 0.0
        self._begun, self._before = time.monotonic(), 0  # when, and after how many points, this session began
        self._unsampled: set[str] = set()
        self.points: list[Point] = []
        self.told: list[str] = []
        self.plan: RunPlan | None = None

    def started(self, plan: RunPlan) -> None:
        """The picture begins with what a run before this one has drawn."""
        self.plan, self.points = plan, list(plan.history)
        self._begun, self._before = time.monotonic(), len(self.points)
        songs = f"{plan.songs} song(s), {plan.items} in each step, {plan.parameters / 1e6:.1f} M numbers to learn"
        self._runtime.say(f"training {plan.start} to {plan.steps} of {plan.steps} steps: {songs}")

    def point(self, point: Point) -> None:
        """At most one picture a second, and one at the end; a line with it."""
        self.points.append(point)
        now = time.monotonic()
        if point.step < point.steps and now - self._drawn < PICTURE_EVERY:
            return
        self._drawn = now
        self._runtime.say(self._line(point))
        picture = loss_picture(self.points, self._title(point), self._first())
        self._bar.update_absolute(point.step, point.steps, ("JPEG", picture, WIDTH))

    def should_stop(self) -> bool:
        """Whether somebody pressed "stop and keep"."""
        return self._stop.is_set()

    def sample(self, decoder: DiT, step: int) -> None:
        """A file, or a sentence why there is none: the same reason is told once, and no run ends for it."""
        try:
            made = self._samples.make(decoder, step)
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            self.say(made)
            return
        management.soft_empty_cache()  # out here the error is gone, and with it the frames that hold its tensors
        if reason not in self._unsampled:
            self._unsampled.add(reason)
            self.say(f"no sample at step {step}: {reason}")

    def say(self, text: str) -> None:
        """Shown now, and kept for the node's report."""
        self.told.append(text)
        self._runtime.say(text)

    def save_picture(self, folder: Path) -> Path | None:
        """The picture as a file of the run, where there was no step that of before; None where there is none."""
        path = folder / PICTURE
        if not self.points:
            return path if path.is_file() else None
        draft = path.with_name(f".{PICTURE}.tmp")
        loss_picture(self.points, self._title(self.points[-1]), self._first()).save(draft, format="PNG")
        draft.replace(path)
        return path

    @property
    def step_seconds(self) -> float:
        """Seconds a step of this session so far, validation, samples and checkpoints among them; 0 before the first."""
        return self.seconds / len(self.session) if self.session else 0.0

    @property
    def seconds(self) -> float:
        """Since the first step of this session began."""
        return time.monotonic() - self._begun

    @property
    def session(self) -> list[Point]:
        """The points of this session: those that a run before this one left are not among them."""
        return self.points[self._before :]

    @property
    def peak_bytes(self) -> int:
        """The most memory that the device held in a step of this session; 0 where that is not known."""
        return max((point.peak_bytes for point in self.session), default=0)

    def _first(self) -> tuple[int, float] | None:
        """The validation before the first step, or where it was first asked for; None where a point has it."""
        if self.plan is None or self.plan.validation is None:
            return None
        checked = [point.validation for point in self.plan.history if point.validation is not None]
        if self.plan.validation in checked:
            return None
        return 0 if checked else self.plan.start, self.plan.validation

    def _line(self, point: Point) -> str:
        left = (point.steps - point.step) * self.step_seconds
        checked = next((p.validation for p in reversed(self.points) if p.validation is not None), None)
        parts = (
            f"step {point.step} of {point.steps}",
            f"average {point.average:.4f}",
            f"validation {checked:.4f}" if checked is not None else "",
            f"{self.step_seconds:.2f} s a step",
            f"{in_time(left)} left",
        )
        return ", ".join(part for part in parts if part)

    def _title(self, point: Point) -> str:
        return f"{self._line(point)}, learning rate {point.learning_rate:.2g}"


def in_time(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
