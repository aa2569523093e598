"""Steps of a run faster than layer by layer: compiled layers, and a whole step as one CUDA graph (spec/perf.md §4).

Both only where every weight lies still on the device; streamed or hooked weights go the plain way. What is packed and
multiplied out at each use is recorded like any other; whether it is worth a compile is for the maker of `Speed` to say.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..compiled import Compiler
from ..graphs import Graphs, Recorder
from .config import DiTConfig, activation_bytes
from .told import KEPT, Told
from .transformer import DiT, LayerPass, pass_layer

LOG = logging.getLogger(__name__)
# Graphs of one run: song and null, together and alone, of two sets of conditions. What changes more often goes plainly.
MOST_GRAPHS = 4


def recording_bytes(config: DiTConfig, batch: int, frames: int, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that the recordings of a run keep beside what a step needs, which they also need (`activation_bytes`).

    They share the memory of one step more. Each has inputs of its own and keeps the `Told` that it was made with, of
    which a step counts `KEPT`.
    """
    step = activation_bytes(config, batch, frames, tokens, dtype)  # `KEPT` more of `Told` are within it
    inputs = MOST_GRAPHS * batch * frames * (config.in_channels + config.audio_acoustic_hidden_dim)  # and what came out
    return step * (MOST_GRAPHS // KEPT - 1) + inputs * dtype.itemsize


@dataclass(eq=False)
class Speed:
    """What somebody wants of every run of a decoder, and what became of it.

    Runs that share one share what was compiled: copies of it are it. `through` takes every layer, `waits` says that a
    run found weights that do not lie still.
    """

    compiler: Compiler | None = None
    graphs: Graphs | None = None
    through: LayerPass = field(init=False)
    waits: bool = field(init=False, default=False)
    _runs: WeakKeyDictionary[object, Steps] = field(init=False, default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        self.through = pass_layer if self.compiler is None else self.compiler.wrap(pass_layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Speed:
        return self

    def steps_of(self, run: object) -> Steps:
        """The steps of a run; they are let go together with `run`."""
        return self._runs.setdefault(run, Steps(self))

    def find_still(self, dit: DiT, x: Tensor) -> bool:
        """Whether a run can go fast, and the first time it cannot a word about it."""
        still = dit.ops.lies_still(dit, x)
        if not still and not self.waits:
            self.waits = True
            LOG.warning(
                "The decoder's weights do not all lie on %s as they are (streamed, or brought in at each use): "
                "its steps go on without compiled layers and CUDA graphs",
                x.device,
            )
        return still


class Steps:
    """The steps of one run, in which no weight changes."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._still: bool | None = None  # a walk over all layers, so once a run
        self._recorder = None if speed.graphs is None else Recorder(speed.graphs, MOST_GRAPHS)
        self._recorded: dict[Hashable, _Recorded] = {}

    def velocity(self, dit: DiT, x: Tensor, context: Tensor, told: Told, t: Tensor) -> Tensor:
        """What `DiT` makes of its arguments: [B, T, 64] at x [B, T, 64], context [B, T, 128] and t [B]."""
        if self._still is None:
            self._still = self._speed.find_still(dit, x)
        recorder, through = self._recorder, self._speed.through if self._still else pass_layer
        if self._still and recorder is not None and recorder.works_on(x.device):
            kind = _kind(x, context, told, t)
            if kind in self._recorded or len(self._recorded) < MOST_GRAPHS:
                recorded = self._recorded.setdefault(kind, _Recorded(recorder, kind, told))
                return recorded.velocity(dit, (x, context, t), through)
        else:
            self._recorded.clear()
        velocity: Tensor = dit(x, context, told, t, through=through)
        return velocity


def _kind(x: Tensor, context: Tensor, told: Told, t: Tensor) -> Hashable:
    """Steps of one kind differ in nothing but the numbers in x, context and t.

    What was told is known by its place: whoever keeps a graph keeps it, so nothing else can come to lie there.
    """
    first = told.keys_values[0][0]
    mask = 0 if told.mask is None else told.mask.data_ptr()
    return x.shape, x.dtype, context.shape, context.dtype, t.dtype, first.shape, first.data_ptr(), mask


class _Recorded:
    """Steps of one kind: on memory of their own, so that a recording finds its inputs where they were."""

    def __init__(self, recorder: Recorder, kind: Hashable, told: Told) -> None:
        self._recorder, self._kind, self._told = recorder, kind, told
        self._inputs: tuple[Tensor, ...] = ()
        self._out: Tensor | None = None

    def velocity(self, dit: DiT, given: tuple[Tensor, Tensor, Tensor], through: LayerPass) -> Tensor:
        """Of x, context and t, as `DiT` takes them; the result is the caller's."""
        if not self._inputs:
            self._inputs = tuple(tensor.clone() for tensor in given)
        for own, tensor in zip(self._inputs, given, strict=True):
            own.copy_(tensor)
        x, context, t = self._inputs

        def step() -> None:
            v = dit(x, context, self._told, t, through=through)
            self._out = v if self._out is None else self._out.copy_(v)

        self._recorder.run(self._kind, step)
        assert self._out is not None
        return self._out.clone()
