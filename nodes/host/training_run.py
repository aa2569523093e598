"""One run of training inside ComfyUI: memory first, then a decoder of its own, then the core's loop."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...acestep_models.dit.config import DiTConfig
from ...acestep_models.runtime import Handle
from ...acestep_models.training.examples import Prepared
from ...acestep_models.training.job import Around, Result, TrainOptions, train
from ...acestep_models.training.memory import CARD_OVERHEAD, estimate
from ...acestep_models.training.record import compare_options, make_record, read_result
from ...acestep_models.vae.oobleck import Oobleck
from .runtime import HostRuntime
from .training import check_trainable, own_decoder, seat, source_name, training_device, training_dtype
from .training_samples import SampleMaker
from .training_watch import HostWatcher
from .weights import unseen_changes

GIB = 1024**3
SAMPLES = "samples"


@dataclass(frozen=True, eq=False)
class Run:
    """What to train on what, and where.

    Attributes:
        model: the MODEL wire; nothing of it is changed.
        data: prepared songs.
        folder: the run folder.
        vae: for samples on the way.
    """

    model: Any
    data: Prepared
    options: TrainOptions
    folder: Path
    vae: Handle[Oobleck]


@dataclass(frozen=True, eq=False)
class Need:
    """What decides how much memory a run needs beside its options; the longest song, or crop, counts."""

    config: DiTConfig
    data: Prepared
    dtype: torch.dtype
    device: torch.device

    def bytes(self, options: TrainOptions) -> int:
        """Decoder, adapter, optimizer, what a step keeps, and on a card what its driver takes."""
        frames, tokens = self.data.longest(options.crop_frames)
        overhead = 0 if self.device.type == "cpu" else CARD_OVERHEAD
        return estimate(self.config, options, frames, tokens, self.dtype).total + overhead


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it: the core's result, who watched it, and lines for the report, none where it was done before."""

    result: Result
    watcher: HostWatcher
    lines: tuple[str, ...]


def train_here(run: Run, runtime: HostRuntime, stop: threading.Event) -> Outcome:
    """Train on the host's device, beside none of its models; whatever happens, the device is empty afterwards.

    A run that is done, or cannot go on, leaves the host's models where they are. `stop` ends it after a step.

    Raises:
        ValueError: for a model that cannot be trained, or a run folder with other settings.
        ACEStepError: when memory or disk ran out, or the loss was not a number ten times in a row.
    """
    network, device = check_trainable(run.model), training_device()
    variant, dtype = network.variant_name, training_dtype(network)
    samples = SampleMaker(run.data, variant, run.vae, run.folder / SAMPLES, run.options.seed)
    watcher = HostWatcher(runtime, stop, samples)
    compare_options(run.folder, run.options, variant, run.data)
    result = _done_before(run, variant)
    if result is not None:
        return Outcome(result, watcher, ())
    need = Need(network.config, run.data, dtype, device)
    whole = need.bytes(replace(run.options, recompute="off"))
    with torch.inference_mode(False), seat(whole, device) as free:
        options, lines = fitting(need, run.options, free)
        for line in lines[1:]:
            watcher.say(line)
        around = Around(runtime=runtime, device=device, watcher=watcher, facts={"base_model": source_name(run.model)})
        result = train(own_decoder(run.model, device), variant, run.data, options, run.folder, around)
    return Outcome(result, watcher, (*lines[:1], *unseen_changes(model=run.model)))


def _done_before(run: Run, variant: str) -> Result | None:
    """The result of the same run, where it is finished; whether the weights are the same is seen on the CPU."""
    before = read_result(run.folder)
    if before is None or before.stopped or before.steps != run.options.steps:
        return None
    with torch.inference_mode(False), suppress(ValueError):  # patches may round in another way than on the device
        record = make_record(run.options, variant, own_decoder(run.model, torch.device("cpu")), run.data, 1)
        record.compare(run.folder)
        return record.finished(run.folder)
    return None


def fitting(need: Need, options: TrainOptions, free: int) -> tuple[TrainOptions, tuple[str, ...]]:
    """The options with what `recompute` auto comes to in `free` bytes, and lines: the estimate first, then warnings."""
    size, how = need.bytes(replace(options, recompute="off")), "without"
    if options.recompute == "on" or (options.recompute == "auto" and size > free):
        options = replace(options, recompute="on")
        size, how = need.bytes(options), "with"
    line = f"memory: about {size / GIB:.1f} GiB {how} recomputation, {free / GIB:.1f} GiB free"
    if size <= free:
        return options, (line,)
    warning = (
        f"warning: training needs about {size / GIB:.1f} GiB, {free / GIB:.1f} GiB are free; where it runs out, turn "
        "recompute on, set crop_seconds, or lower rank and batch"
    )
    return options, (line, warning)
