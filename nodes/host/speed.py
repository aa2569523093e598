"""Compiled layers and CUDA graphs on a MODEL: a wish that travels with it, so every sampler follows it."""

from __future__ import annotations

from typing import Any

from ...acestep_models.compiled import Compiler
from ...acestep_models.dit.speed import Speed
from ...acestep_models.graphs import Graphs
from .models import SPEED

DECODER = "the decoder"


def speed_up(model: Any, compiling: bool, graphs: bool) -> tuple[Any, Speed]:
    """A clone of `model` whose runs are sped up, and the state of that; the model itself stays as it is.

    One shape is compiled for itself and the second for all others, so a session of many lengths compiles twice.
    """
    speed = Speed(
        Compiler(DECODER, dynamic=None) if compiling else None, Graphs(name="A step of the decoder") if graphs else None
    )
    clone = model.clone()
    options = clone.model_options
    clone.model_options = {**options, "transformer_options": {**options.get("transformer_options", {}), SPEED: speed}}
    return clone, speed


def brings_weights(model: Any) -> bool:
    """Whether this host brings the weights in at each use, as newer ones do, so that none of them lies still."""
    return bool(getattr(model, "is_dynamic", lambda: False)())
