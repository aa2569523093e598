"""What a run of training meets outside itself: its surroundings, who watches it, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from ..dit.transformer import DiT
from ..runtime import PlainRuntime, Runtime
from .parallel import Workers


@dataclass(frozen=True)
class Point:
    """One optimizer step, as it was measured.

    Attributes:
        step, steps: steps done after it (from 1), and of the whole run.
        loss, average: mean over the step's songs, and that smoothed over about 50 steps.
        validation: the loss on the fixed grid, where it was measured after this step.
        learning_rate, grad_norm: of this step, the norm before clipping.
        seconds: that the step took, without validation, samples and checkpoints.
        peak_bytes: the most memory that its device held so far, 0 where that is not known.
    """

    step: int
    steps: int
    loss: float
    average: float
    validation: float | None
    learning_rate: float
    grad_norm: float
    seconds: float
    peak_bytes: int = 0


@dataclass(frozen=True)
class RunPlan:
    """What is about to happen, told once before the first step.

    Attributes:
        folder: the run folder.
        start: steps that are done already, 0 for a new run.
        items: songs or crops in one optimizer step, over all processes.
        songs: that are trained on.
        parameters: numbers that are learned.
        recompute: whether layers are computed again in the backward pass.
        validation: the loss on the fixed grid before the first step of the run, or where it was first asked for; None
            where none is measured.
        history: the points of the run so far.
        notes: what a user should know, each a sentence.
    """

    folder: Path
    start: int
    steps: int
    items: int
    songs: int
    parameters: int
    recompute: bool
    validation: float | None = None
    history: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()


class Watcher(Protocol):
    """Who looks on; called in the first process only, but for `should_stop`."""

    def started(self, plan: RunPlan) -> None:
        """The run is ready for its first step."""

    def point(self, point: Point) -> None:
        """A step is done."""

    def should_stop(self) -> bool:
        """Whether to end after the running step and keep what is there."""

    def sample(self, decoder: DiT, step: int) -> None:
        """Make a sample: the decoder has the adapter in it, in evaluation mode and outside of autograd."""

    def say(self, text: str) -> None:
        """A sentence about something that happened."""


class Silent:
    """A watcher that shows nothing and remembers the last of everything; a base for others."""

    plan: RunPlan | None = None
    last: Point | None = None
    sampled: int = 0
    words: str = ""

    def started(self, plan: RunPlan) -> None:
        """See `Watcher.started`."""
        self.plan = plan

    def point(self, point: Point) -> None:
        """See `Watcher.point`."""
        self.last = point

    def should_stop(self) -> bool:
        """Never."""
        return False

    def sample(self, decoder: DiT, step: int) -> None:
        """See `Watcher.sample`; none is made."""
        self.sampled = step

    def say(self, text: str) -> None:
        """See `Watcher.say`."""
        self.words = text


@dataclass
class Around:
    """The surroundings of a run.

    Attributes:
        runtime: is told of progress and asked at every micro-step whether the user cancelled.
        device: that is computed on; the decoder is moved there.
        workers: the processes that share the work.
        facts: what the adapter's file should say besides what the run knows itself (text by text).
    """

    runtime: Runtime = field(default_factory=PlainRuntime)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: Workers = field(default_factory=Workers.single)
    watcher: Watcher = field(default_factory=Silent)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        folder: the PEFT folder.
        file: the single file with explicit alphas.
        steps: that were done.
        stopped: whether the user ended it early.
        validation: the loss on the fixed grid before the first step (or where it was first asked for) and after the
            last, None where none is measured.
        notes: what a user should know, each a sentence.
    """

    folder: Path
    file: Path
    steps: int
    stopped: bool
    validation: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
