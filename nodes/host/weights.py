"""The weights that a MODEL wire really plays with: those of its file, and every patch of the nodes between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import comfy.lora
import comfy.model_management as management
import torch
from torch import Tensor

from ...acestep_models.loading.packed import SCALE
from .adapters import DECODER, decoder_shapes
from .models import song_model

WORK_COPIES = 6  # two weights, a difference, and what a decomposition takes beside it


class DecoderWeights(Mapping[str, Tensor]):
    """The decoder's weights in float32 under its own names, patches applied, each made when it is asked for.

    One at a time, because a patched copy of a whole XL decoder has 16 GB. Nothing of the model is touched: a patch is
    applied to a copy of the weight, as ComfyUI's merge nodes do it.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        """`model` is one of our MODEL wires; weights are made on `device`."""
        # The host's own list: [(weight as it was loaded, conversion), patches ...] by name. A weight that is patched
        # in place, also by a clone of this wire, comes from the backup. Scales of packed weights, which the list has or
        # not as these are patched in place or not, are in the conversion.
        found = model.get_key_patches(DECODER).items()
        self._sources = {key.removeprefix(DECODER): parts for key, parts in found if not key.endswith(f".{SCALE}")}
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        (weight, convert), *patches = self._sources[name]
        copy = management.cast_to_device(weight, self._device, torch.float32, copy=True)
        plain: Tensor = convert(copy, inplace=True)
        patched: Tensor = comfy.lora.calculate_weight(patches, plain, DECODER + name)
        return patched

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def decoder_pair(model_tuned: Any, model_base: Any) -> tuple[DecoderWeights, DecoderWeights]:
    """The weights of two decoders of one size.

    Raises:
        ValueError: if a wire holds another model, or one decoder has other sizes than the other.
    """
    sizes = [_size(where, model) for where, model in (("model_tuned", model_tuned), ("model_base", model_base))]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"model_base: expected a decoder like model_tuned, which has {sizes[0]}, got one of {sizes[1]}; load the "
            "model that the tuned one was made from"
        )
    device = management.get_torch_device()
    _make_room(model_base, device)
    return DecoderWeights(model_tuned, device), DecoderWeights(model_base, device)


def _make_room(model: Any, device: torch.device) -> None:
    """Have the host put models off the device until the largest weight can be taken apart on it.

    The host does not count what is computed outside of its samplers.
    """
    largest = max(prod(shape) for shape in decoder_shapes(model).values())
    need = WORK_COPIES * largest * torch.float32.itemsize
    management.free_memory(need + management.minimum_inference_memory(), device)


def _size(where: str, model: Any) -> str:
    try:
        config = song_model(model).config
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return f"width {config.hidden_size} and {config.num_hidden_layers} layers, reading width " + str(
        config.encoder_hidden_size
    )


def unseen_changes(**models: Any) -> tuple[str, ...]:
    """Warnings of what alters a decoder only while it runs, and so is in none of its weights."""
    return tuple(
        f"warning: {where} has {', '.join(kinds)}, which act only while it runs: they are not in the LoRA"
        for where, model in models.items()
        if (kinds := _kinds(model))
    )


def _kinds(model: Any) -> tuple[str, ...]:
    wrapped = any(key.startswith(DECODER) for key in getattr(model, "weight_wrapper_patches", {}))
    injected = bool(getattr(model, "injections", {}))
    return (*(("weight wrappers",) if wrapped else ()), *(("injections",) if injected else ()))
