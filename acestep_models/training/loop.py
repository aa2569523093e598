"""The loop: steps, checkpoints, validation, and every way in which a run can end (spec/lora.md §4.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..adapters.adapter import Adapter
from ..adapters.files import read_adapter
from ..errors import ACEStepError
from .around import Around, Point, RunPlan
from .average import EMA
from .checkpoint import Checkpoints, Counters, Saved
from .checkpointed import recompute
from .metrics import Metrics, smoothed
from .options import TrainOptions
from .schedule import learning_rate
from .step import Measured, Stepper
from .trainable import Trainable

BAD_IN_A_ROW = 10
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(eq=False)
class Loop:
    """One run, from `counters.step` on.

    Attributes:
        facts: gives the adapter's facts after so many steps.
        recomputing: whether layers are computed again in the backward pass; an "auto" run may switch it on.
        notes: what happened, each a sentence.
    """

    stepper: Stepper
    trainable: Trainable
    optimizer: torch.optim.Optimizer
    average: EMA | None
    checkpoints: Checkpoints
    metrics: Metrics
    around: Around
    facts: Any
    recomputing: bool = False
    counters: Counters = field(default_factory=Counters)
    notes: list[str] = field(default_factory=list)
    _whole: bool = True  # the parameters are those after counters.step
    _saved: int = 0  # the last step that a checkpoint was begun for

    @property
    def options(self) -> TrainOptions:
        """What the run was told."""
        return self.stepper.draws.options

    def resume(self, saved: Saved) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if it is of other layers than are trained.
        """
        self.trainable.load(read_adapter(saved.folder))
        self.optimizer.load_state_dict(saved.optimizer)
        if self.average is not None:
            self.average.load(saved.average or {})
        self.counters, self._saved = saved.counters, saved.counters.step

    def run(self, plan: RunPlan) -> bool:
        """Take the steps that are left; whether it was stopped before the last.

        However it ends, there is a checkpoint of the last whole step, and no gradient is left.
        """
        ended = False
        try:
            stopped = self._steps(plan)
            ended = True
            return stopped
        finally:
            self.stepper.clear()
            if not ended:
                self._rescue()

    def adapter(self, *, averaged: bool) -> Adapter:
        """What is learned so far: the average, or the parameters as they are trained."""
        values = self.average.values if averaged and self.average is not None else None
        adapter: Adapter = self.trainable.adapter(self.facts(self.counters), values)
        return adapter

    def _steps(self, plan: RunPlan) -> bool:
        if self.counters.step == 0 and self._validates():
            first = self._validation()
            self.counters = replace(self.counters, first=first, last=first, measured=0)
        if self.around.workers.main:
            history = self.metrics.cut(self.counters.step)
            self.around.watcher.started(replace(plan, validation=self.counters.first, history=history))
        while self.counters.step < self.options.steps:
            self._step()
            stopping = self._asked_to_stop()
            ending = stopping or self.counters.step == self.options.steps
            if ending or self.counters.step % self.options.checkpoint_every == 0:
                self._save()
            if stopping:
                return self.counters.step < self.options.steps
        return False

    def _step(self) -> None:
        """One optimizer step, and whatever is due after it."""
        begun, step = time.perf_counter(), self.counters.step
        rate = learning_rate(step, self.options.steps, self.options.learning_rate, self.options.warmup)
        measured = self.stepper.finish(self._gradient(step))
        self._take(measured, rate)
        seconds = time.perf_counter() - begun
        due = self._validates() and (self._is_due(self.options.validate_every) or self._at_the_end())
        if due:
            self.counters = replace(self.counters, last=self._validation(), measured=self.counters.step)
        self._report(measured, rate, seconds)
        if self.counters.bad >= BAD_IN_A_ROW:
            raise ACEStepError(
                f"the loss or its gradient was not a finite number in {self.counters.bad} steps in a row (step "
                f"{self.counters.step}). Train with a lower learning rate than {self.options.learning_rate:g} under "
                "another name, or take an earlier checkpoint."
            )
        if self._is_due(self.options.sample_every) and self.around.workers.main:
            self._sample()

    def _gradient(self, step: int) -> torch.Tensor:
        """The gradient of a step; where memory runs out, once more with recomputation if that is left to us."""
        try:
            return self.stepper.gradient(step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0]
        # Out here the error is gone, and with it the frames that hold the activations.
        self.stepper.clear()
        _empty_cache(self.stepper.device)
        if self.recomputing or self.options.recompute != "auto":
            raise ACEStepError(self._advice(step, said))
        self.recomputing = True
        recompute(self.stepper.decoder, True)
        self._say(
            f"Memory ran out at step {step + 1}: from here on layers are computed again in the backward pass, which "
            "takes about half as long again."
        )
        return self._gradient(step)

    def _advice(self, step: int, said: str) -> str:
        options, ways = self.options, []
        if not self.recomputing:
            ways.append("set recompute to on")
        ways += [f"set batch to 1 (it is {options.batch})"] if options.batch > 1 else []
        ways += [
            f"learn crops of {'fewer' if options.crop_seconds else '60'} seconds",
            f"lower the rank {options.rank}",
        ]
        return f"memory ran out at step {step + 1} ({said}). To train here, {', '.join(ways)}, or close other programs."

    def _take(self, measured: Measured, rate: float) -> None:
        """Move the parameters, unless the gradient is not a number, and count the step."""
        before = self.counters
        self._whole = False
        if measured.finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.trainable.named(), before.step)
        self.stepper.clear()
        self.counters = replace(
            before,
            step=before.step + 1,
            average=smoothed(before.average, measured.loss),
            bad=0 if measured.finite else before.bad + 1,
            skipped=before.skipped + (not measured.finite),
        )
        self._whole = True

    def _report(self, measured: Measured, rate: float, seconds: float) -> None:
        if not self.around.workers.main:
            return
        now = self.counters
        average = measured.loss if now.average is None else now.average
        point = Point(
            now.step,
            self.options.steps,
            measured.loss,
            average,
            now.validation,
            rate,
            measured.norm,
            seconds,
            self._peak(),
        )
        self.metrics.add(point, by_time=measured.by_time, skipped=now.skipped)
        self.around.runtime.progress(now.step, self.options.steps)
        self.around.watcher.point(point)

    def _sample(self) -> None:
        self.stepper.decoder.eval()
        with self._averaged(), torch.no_grad():
            self.around.watcher.sample(self.stepper.decoder, self.counters.step)

    def _validation(self) -> float | None:
        with self._averaged():
            return self.stepper.validate()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The average in the place of the parameters, which come back to the bit."""
        if self.average is None:
            yield
            return
        named = self.trainable.named()
        kept = {name: parameter.detach().clone() for name, parameter in named.items()}
        try:
            self.trainable.load(self.average.values)
            yield
        finally:
            self.trainable.load(kept)

    def _save(self) -> None:
        self._saved = self.counters.step
        if self.around.workers.main:
            moments = self.optimizer.state_dict()
            average = None if self.average is None else self.average.values
            self.checkpoints.save(self.adapter(averaged=False), self.counters, moments, average)
            self.checkpoints.prune(self.counters.step, self.options.keep)
        self.around.workers.barrier()

    def _rescue(self) -> None:
        """Keep the last whole step; the error that ends the run goes on, whatever happens here."""
        if not (self._whole and self.around.workers.main and self.counters.step > self._saved):
            return
        try:
            self._saved = self.counters.step
            moments = self.optimizer.state_dict()
            average = None if self.average is None else self.average.values
            path = self.checkpoints.save(self.adapter(averaged=False), self.counters, moments, average)
            self._say(f"What was learned until step {self.counters.step} is kept in {path}.")
        except (ACEStepError, OSError, RuntimeError) as error:
            self._say(f"What was learned since the last checkpoint is lost: {error}")

    def _asked_to_stop(self) -> bool:
        asked = self.around.watcher.should_stop()
        if self.around.workers.count == 1:
            return asked
        flag = torch.tensor([float(asked)], device=self.stepper.device)
        return bool(self.around.workers.sum(flag).item())

    def _validates(self) -> bool:
        return self.options.validate_every > 0 and self.options.validation_points > 0

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.counters.step % every == 0

    def _at_the_end(self) -> bool:
        return self.counters.step == self.options.steps

    def _peak(self) -> int:
        device = self.stepper.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

    def _say(self, text: str) -> None:
        self.notes.append(text)
        self.around.watcher.say(text)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on a card or on the CPU, where it has no class of its own for it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error).lower() for word in _NO_MEMORY)


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
