"""The loop: steps, checkpoints, validation, and every way in which a run can end (spec/lora.md §4.2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..adapters.adapter import Adapter, AdapterFacts
from ..adapters.files import read_adapter
from ..errors import ACEStepError
from .around import Around, Point, RunPlan
from .average import EMA
from .checkpoint import Checkpoints, Counters, Saved, load_moments, moments_of
from .checkpointed import recompute
from .device_memory import advice, empty_cache, forget_peak, is_out_of_memory, peak
from .metrics import Metrics, smoothed
from .options import TrainOptions
from .schedule import learning_rate
from .step import Measured, Stepper
from .trainable import Trainable

BAD_IN_A_ROW = 10
# Whatever can go wrong while a run is being rescued; a host's cancel may be any other Exception and goes on.
_ERRORS = (ACEStepError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


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
    facts: Callable[[Counters], AdapterFacts]
    recomputing: bool = False
    counters: Counters = field(default_factory=Counters)
    notes: list[str] = field(default_factory=list)
    _whole: bool = True  # the parameters are those after counters.step
    _saved: int = 0  # the last step that has a checkpoint, or whose checkpoint could not be written

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
        if self.average is not None:
            self.average.load(self.trainable.named())
            self.trainable.load(saved.parameters or {})
        load_moments(self.optimizer, saved.optimizer, str(saved.folder))
        self.counters, self._saved = saved.counters, saved.counters.step

    def run(self, plan: RunPlan) -> bool:
        """Take the steps that are left; whether it was stopped before the last.

        However it ends, there is a checkpoint of the last whole step, and no gradient is left.
        """
        ended = False
        forget_peak(self.stepper.device)
        try:
            stopped = self._steps(plan)
            self._name_the_best()
            ended = True
            return stopped
        finally:
            self.stepper.clear()
            if not ended:
                self._rescue()

    def adapter(self, *, averaged: bool) -> Adapter:
        """What is learned so far: the average, or the parameters as they are trained."""
        values = self.average.values if averaged and self.average is not None else None
        return self.trainable.adapter(self.facts(self.counters), values)

    def _steps(self, plan: RunPlan) -> bool:
        self._begin(plan)
        while self.counters.step < self.options.steps:
            self._step()
            stopping = self._asked_to_stop()
            if stopping:
                self._measure()  # the result says how good it is
            if stopping or self._saves_here():
                self._save()
            if stopping:
                return self.counters.step < self.options.steps
        return False

    def _begin(self, plan: RunPlan) -> None:
        """Measure what the run starts from, and what an interrupted run still owes for its last step."""
        if self._validates() and self.counters.first is None:
            self._measure()
            self.counters = replace(self.counters, first=self.counters.last)
        main, now = self.around.workers.main, self.counters
        if main:
            self.metrics.cut(now.step)
        if now.step and now.measured != now.step and self._measures_here():
            self._measure()
            if self._saves_here():
                self._save()
        if main:
            if self._measures_here():
                self._log(lambda: self.metrics.validated(now.step, self.counters.validation))
            history = self.metrics.cut(now.step)
            self.around.watcher.started(replace(plan, validation=self.counters.first, history=history))

    def _step(self) -> None:
        """One optimizer step, and whatever is due after it."""
        begun, step = time.perf_counter(), self.counters.step
        rate = learning_rate(step, self.options.steps, self.options.rate, self.options.warmup)
        measured = self.stepper.finish(self._gradient(step))
        self._take(measured, rate)
        self._report(measured, rate, time.perf_counter() - begun)
        if self.counters.bad >= BAD_IN_A_ROW:
            raise ACEStepError(
                f"the loss or its gradient was not a finite number in {self.counters.bad} steps in a row (step "
                f"{self.counters.step}). Train with a lower learning rate than {self.options.rate:g} under "
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
        empty_cache(self.stepper.device)
        if self.recomputing or self.options.recompute != "auto":
            raise ACEStepError(advice(self.options, step, said, recomputing=self.recomputing))
        self.recomputing = True
        recompute(self.stepper.decoder, True)
        self._say(
            f"Memory ran out at step {step + 1}: from here on layers are computed again in the backward pass, which "
            "takes about half as long again."
        )
        return self._gradient(step)

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
            average=smoothed(before.average, measured.loss, before.heard),
            heard=before.heard + math.isfinite(measured.loss),
            bad=0 if measured.finite else before.bad + 1,
            skipped=before.skipped + (not measured.finite),
        )
        self._whole = True

    def _report(self, measured: Measured, rate: float, seconds: float) -> None:
        """Write the step down, then validate if that is due: a cancel there loses no line."""
        main, now = self.around.workers.main, self.counters
        average = measured.loss if now.average is None else now.average
        steps, norm = self.options.steps, measured.norm
        point = Point(now.step, steps, measured.loss, average, None, rate, norm, seconds, peak(self.stepper.device))
        if main:
            self._log(lambda: self.metrics.add(point, by_time=measured.by_time, skipped=now.skipped))
        if self._measures_here():
            self._measure()
        if main:
            validation = self.counters.validation
            self._log(lambda: self.metrics.validated(now.step, validation))
            self.around.runtime.progress(now.step, steps)
            self.around.watcher.point(replace(point, validation=validation))

    def _log(self, write: Callable[[], None]) -> None:
        """A step's line; no run ends for one that cannot be written."""
        try:
            write()
        except ACEStepError as error:
            self._say_once(str(error))

    def _sample(self) -> None:
        self.stepper.decoder.eval()
        with self._averaged(), torch.no_grad():
            self.around.watcher.sample(self.stepper.decoder, self.counters.step)

    def _measure(self) -> None:
        """The validation loss of these weights, unless it is known or none is asked for."""
        if not self._validates() or self.counters.measured == self.counters.step:
            return
        with self._averaged():
            loss = self.stepper.validate()
        if loss is not None and not math.isfinite(loss):
            self._say_once("A validation loss was not a finite number: it does not count.")
            loss = None
        self.counters = replace(self.counters, last=loss, measured=self.counters.step)

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
        if self.around.workers.main:
            self._write_checkpoint()
            self.checkpoints.prune(self.counters.step, self.options.keep)
        self.around.workers.barrier()

    def _rescue(self) -> None:
        """Keep the last whole step; the error that ends the run goes on, whatever happens here."""
        if not (self._whole and self.around.workers.main and self.counters.step > self._saved):
            return
        try:
            said = f"What was learned until step {self.counters.step} is kept in {self._write_checkpoint()}."
        except _ERRORS as error:
            said = f"What was learned since the last checkpoint is lost: {error}"
        with suppress(*_ERRORS):
            self._say(said)

    def _write_checkpoint(self) -> Path:
        """A checkpoint of now. One that the disk refused is not tried twice; one that was interrupted is."""
        raw = None if self.average is None else self.trainable.named()
        adapter, moments = self.adapter(averaged=True), moments_of(self.optimizer)
        try:
            path = self.checkpoints.save(adapter, self.counters, moments, raw, self._say_once)
        except ACEStepError:
            self._saved = self.counters.step
            raise
        self._saved = self.counters.step
        return path

    def _name_the_best(self) -> None:
        best = self.checkpoints.best(self.counters.step) if self.around.workers.main else None
        if best is not None and self._validates():
            self.notes.append(f"The validation loss is lowest, {best[1]:.6g}, in {best[0]}.")

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

    def _saves_here(self) -> bool:
        """Whether a checkpoint is due after this step."""
        return self._is_due(self.options.checkpoint_every) or self.counters.step == self.options.steps

    def _measures_here(self) -> bool:
        """Whether a validation is due after this step: at each checkpoint too, so that the best is one of all."""
        return self._validates() and (self._is_due(self.options.validate_every) or self._saves_here())

    def _say_once(self, text: str) -> None:
        if text not in self.notes:
            self._say(text)

    def _say(self, text: str) -> None:
        self.notes.append(text)
        self.around.watcher.say(text)
