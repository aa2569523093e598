"""Compiled layers and CUDA graphs on a MODEL: a wish that travels with it, so every sampler follows it."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension

from ...acestep_models.compiled import Compiler
from ...acestep_models.dit.speed import Speed
from ...acestep_models.graphs import Graphs
from ...acestep_models.loading.packed import BlockLinear
from .models import SPEED

DECODER = "the decoder"
PREPARE = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING


def speed_up(model: Any, compiling: bool, graphs: bool) -> tuple[Any, Speed]:
    """A clone of `model` whose runs are sped up, and the state of that; the model itself stays as it is.

    What a node before this one wished goes on.

    The first length of a kind of pass is compiled for itself and the second for all others; kinds differ in rows (one
    or several), in the mask of tokens and the band of the window (there or not), and in what fills the last patch.
    """
    before, clone = speed_of(model), model.clone()
    compiler, recorder = (before.compiler, before.graphs) if before else (None, None)
    if compiler is None and compiling and compiles(model):
        compiler = Compiler(DECODER, dynamic=None)
    if recorder is None and graphs:
        recorder = Graphs(name="A step of the decoder")
    same = before is not None and (compiler, recorder) == (before.compiler, before.graphs)
    speed = before if before is not None and same else Speed(compiler, recorder)
    options = clone.model_options
    wishes = {**options.get("transformer_options", {}), SPEED: speed}
    clone.model_options = {**options, "transformer_options": wishes if recorder is None else _announced(wishes)}
    return clone, speed


def speed_of(model: Any) -> Speed | None:
    """What a node wished for the runs of a MODEL, or None."""
    wished = model.model_options.get("transformer_options", {}).get(SPEED)
    return wished if isinstance(wished, Speed) else None


def speed_line(model: Any) -> str:
    """What a report says of a run whose compiling did not work; nothing where all is well."""
    speed = speed_of(model)
    failed = speed.compiler.failed if speed and speed.compiler else ""
    return f"speed up: the decoder was not compiled: {failed}" if failed else ""


def compiles(model: Any) -> bool:
    """Whether the layers are any that a compiler makes something of.

    Blocks of a GGUF file are multiplied out slice by slice, and torch would take minutes to write all of them out.
    """
    return not any(isinstance(layer, BlockLinear) for layer in model.model.modules())


def _announced(options: dict[str, Any]) -> dict[str, Any]:
    """transformer_options in which a run says who it is before its memory is asked for, and not only after.

    Kept here and not with the patcher: a clone with other wrappers would have the host load the weights anew.
    """
    wrappers: dict[Any, dict[Any, list[Any]]] = options.get("wrappers", {})
    return {**options, "wrappers": {**wrappers, PREPARE: {**wrappers.get(PREPARE, {}), SPEED: [_prepare]}}}


def _prepare(prepare: Any, model: Any, *given: Any, **named: Any) -> Any:
    """What the host does before a run, with `current_patcher` as it is during the run."""
    before = model.model.current_patcher
    model.model.current_patcher = model
    try:
        return prepare(model, *given, **named)
    finally:
        model.model.current_patcher = before
