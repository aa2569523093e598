"""One run of training, from a plain decoder and prepared songs to an adapter on disk (spec/lora.md §4.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..adapters.adapter import Adapter, AdapterFacts
from ..adapters.write import write_adapter
from ..dit.transformer import DiT
from ..errors import ACEStepError
from .around import Around, Point, Result, RunPlan, Silent, Watcher
from .average import EMA
from .batches import Draws, make_draws
from .checkpoint import Checkpoints, Counters
from .checkpointed import recompute
from .examples import Prepared
from .files import new_folder
from .loop import Loop
from .memory import CARD_OVERHEAD, estimate
from .metrics import Metrics
from .optimizers import make_optimizer
from .options import TrainOptions
from .record import (
    FINAL,
    PEFT,
    RUN,
    Record,
    check_folders,
    check_weights,
    damage,
    keep_foreign,
    make_record,
    read_result,
    write_result,
)
from .run_folder import agree, appears, clear, disk, owned
from .step import Stepper
from .times import times_for
from .trainable import Trainable, inject

__all__ = ["Around", "Point", "Result", "RunPlan", "Silent", "TrainOptions", "Watcher", "train"]

_FACTS = ("trigger", "trigger_position", "conditioning")


def train(decoder: DiT, variant: str, data: Prepared, options: TrainOptions, folder: Path, around: Around) -> Result:
    """Train an adapter and write it into the run folder; a run that is there already goes on.

    Args:
        decoder: the trainer's own, of plain torch layers and built outside inference mode; frozen here, moved to
            `around.device`, and given back as it was.
        variant: a name in `tasks.VARIANTS`; it chooses the times.
        folder: the run folder (run.json, metrics.jsonl, checkpoints/, final/); its name is the adapter's.

    Raises:
        ValueError: for a decoder that cannot be trained, songs that are too short, a folder with another run or one
            that another process is writing to, or processes that do not see the same folder.
        ACEStepError: when memory or disk ran out, or the loss was not a number ten times in a row; what was learned
            until then is in a checkpoint.
    """
    with torch.inference_mode(False), torch.enable_grad():
        check_weights(decoder)
        draws = make_draws(data, options, times_for(options, variant))
        model = around.facts.get("base_model", "")
        record = make_record(options, variant, decoder, data, around.workers.count, model)
        folder = Path(folder)
        check_folders(folder)
        with owned(folder, around.workers.main):
            record.compare(folder)
            result = record.finished(folder)
            agree(around, folder, int(result is not None))
            if result is not None:
                around.watcher.say(f"{folder} has this run already, finished: nothing was trained.")
                return result
            if around.workers.main and (wrong := damage(folder)):
                around.watcher.say(wrong)
            job = _Job(decoder, draws, record, folder, around)
            with _borrowed(decoder, around.device):
                return job.run()


@dataclass(frozen=True, eq=False)
class _Job:
    """A run that is to be done, on a decoder that is in place."""

    decoder: DiT
    draws: Draws
    record: Record
    folder: Path
    around: Around

    @property
    def options(self) -> TrainOptions:
        return self.draws.options

    def run(self) -> Result:
        """Put the adapter's layers in, train them, take them out again; raises as `train` does."""
        options = self.options
        trainable = inject(
            self.decoder,
            options.kind,
            options.rank,
            options.alpha,
            options.dropout,
            options.targets,
            options.factor,
            options.seed,
        )
        try:
            return self._run(trainable)
        finally:
            recompute(self.decoder, False)
            trainable.remove()
            self.decoder.zero_grad(set_to_none=True)

    def _run(self, trainable: Trainable) -> Result:
        if self.around.workers.main:
            clear(self.folder, self.options, sum(parameter.numel() for parameter in trainable.parameters()))
        self.around.workers.barrier()
        loop = self._loop(trainable)
        self._resume(loop)
        agree(self.around, self.folder, loop.counters.step)
        loop.recomputing = self._recomputes()
        recompute(self.decoder, loop.recomputing)
        if self.around.workers.main:
            with disk(self.folder):
                self.record.write(self.folder)
        self.around.workers.barrier()
        agree(self.around, self.folder, int(appears(self.folder / RUN)))
        stopped = loop.run(self._plan(loop))
        if self.around.workers.main:
            self._write(loop, stopped)
        self.around.workers.barrier()
        result = read_result(self.folder)
        if result is None:
            raise ACEStepError(f"{self.folder / FINAL}: what was just written there is gone. Run it again.")
        return result

    def _loop(self, trainable: Trainable) -> Loop:
        options, parameters = self.options, trainable.parameters()
        dtype = next(self.decoder.parameters()).dtype
        check = self.around.runtime.check_cancelled
        return Loop(
            Stepper(self.decoder, parameters, self.draws, self.around.workers, self.around.device, dtype, check),
            trainable,
            make_optimizer(options.optimizer, parameters, options.rate, options.weight_decay),
            EMA(options.ema, trainable.named()) if options.ema else None,
            Checkpoints(self.folder),
            Metrics(self.folder),
            self.around,
            self._facts,
            notes=[*self.draws.data.notes, *options.doubts],
        )

    def _resume(self, loop: Loop) -> None:
        saved = loop.checkpoints.newest(self.around.watcher.say)
        if saved is None:
            return
        done = saved.counters.step
        if done > self.options.steps:
            raise ValueError(
                f"{self.folder}: {done} steps are done already, but steps is {self.options.steps}. Set it to {done} or "
                "more, or choose another name"
            )
        loop.resume(saved)
        self.around.watcher.say(f"The run goes on from step {done} of {self.options.steps}.")

    def _plan(self, loop: Loop) -> RunPlan:
        return RunPlan(
            folder=self.folder,
            start=loop.counters.step,
            steps=self.options.steps,
            items=loop.stepper.items,
            songs=len(set(self.draws.trained)),
            parameters=sum(parameter.numel() for parameter in loop.stepper.parameters),
            recompute=loop.recomputing,
            notes=tuple(loop.notes),
        )

    def _recomputes(self) -> bool:
        """As asked; "auto" is where the run would not fit into what is free of the card."""
        if self.options.recompute != "auto" or self.around.device.type != "cuda":
            return self.options.recompute == "on"
        free, _ = torch.cuda.mem_get_info(self.around.device)
        frames, tokens = self.draws.data.longest(self.options.crop_frames)
        wish = replace(self.options, recompute="off")
        needed = estimate(self.decoder.config, wish, frames, tokens, next(self.decoder.parameters()).dtype)
        return needed.growth + CARD_OVERHEAD > free

    def _facts(self, counters: Counters) -> AdapterFacts:
        """What the adapter's file says of itself after so many steps."""
        data, known = self.draws.data, dict(self.draws.data.facts)
        trigger, position, conditioning = (known.pop(name, "") or None for name in _FACTS)
        first, last = counters.first, counters.last
        validation = {} if first is None or last is None else {"validation": f"{first:.6g} -> {last:.6g}"}
        metadata = {
            "title": self.folder.name,
            **known,
            **self.around.facts,
            "songs": str(len(data.examples)),
            "steps": str(counters.step),
            "training": json.dumps(dict(self.record.settings), sort_keys=True),
            **validation,
        }
        return AdapterFacts(
            "PEFT",
            base_variant=str(self.record.settings["variant"]),
            trigger=trigger,
            trigger_position=position,
            conditioning=conditioning,
            metadata=metadata,
        )

    def _write(self, loop: Loop, stopped: bool) -> None:
        """final/: the PEFT folder, the single file and how the run ended.

        Raises:
            ACEStepError: if the disk is full; the checkpoints are whole.
        """
        final, now = self.folder / FINAL, loop.counters
        notes = list(loop.notes)
        if now.skipped:
            notes.append(f"{now.skipped} steps were left out: their loss or gradient was not a finite number.")
        measured = None if now.first is None or now.last is None else (now.first, now.last)
        result = Result(
            final / PEFT, final / f"{self.folder.name}.safetensors", now.step, stopped, measured, tuple(notes)
        )
        try:
            with new_folder(final) as draft:
                _write_final(draft, result, loop.adapter(averaged=True))
                keep_foreign(final, draft)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ACEStepError(
                f"{final}: the result could not be written ({error}). Make room on that disk, then run it again with "
                "the same name: nothing is trained twice."
            ) from error


def _write_final(draft: Path, result: Result, adapter: Adapter) -> None:
    draft.mkdir()
    write_adapter(adapter, draft / PEFT, "peft")
    write_adapter(adapter, draft / result.file.name, "single")
    write_result(draft, result)


@contextmanager
def _borrowed(decoder: DiT, device: torch.device) -> Iterator[None]:
    """The decoder frozen and on the device; afterwards where and as it was."""
    home, training = next(decoder.parameters()).device, decoder.training
    needed = {name: parameter.requires_grad for name, parameter in decoder.named_parameters()}
    try:
        decoder.requires_grad_(False)
        decoder.to(device)
        yield
    finally:
        decoder.to(home)
        decoder.train(training)
        for name, parameter in decoder.named_parameters():
            parameter.requires_grad_(needed[name])
        if device.type == "cuda":
            torch.cuda.empty_cache()
