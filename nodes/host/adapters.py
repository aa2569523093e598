"""Adapters on a MODEL or a CONDITIONING, through the host's own patches and hooks: never the module itself.

One class carries every kind of delta, so resident, streamed and hooked weights go the same way, beside the patches of
other nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.hooks
import comfy.weight_adapter
from torch import Tensor

from ...acestep_models.adapters.delta import Delta, merge_into
from .models import song_model
from .packed import packed_shapes

Deltas = Mapping[str, Delta]
Shapes = Mapping[str, tuple[int, ...]]
Choose = Callable[[Shapes], Deltas]
WEIGHT = ".weight"
DECODER = "diffusion_model.decoder."


class HostDelta(comfy.weight_adapter.WeightAdapterBase):
    """A delta as the host's patcher wants it. Newer hosts build it anew from `loaded_keys` and `weights`."""

    name = "acestep"

    def __init__(self, loaded_keys: set[str], weights: tuple[Delta, ...]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, strength_model: float, offset: Any, function: Any, *rest: Any
    ) -> Tensor:
        """weight [out, in, ...] with the delta in it: computed in float32, written where the weight is.

        The host hands out a copy, and for a part of a weight it reads the whole one again: hence in place.
        """
        merged = merge_into(weight, self.weights[0], strength)
        if function is not None:
            merged = weight.float() + function(merged - weight.float())
        return weight.copy_(merged)


class SongHook(comfy.hooks.WeightHook):
    """Deltas for the part of a run that a conditioning is used in; which ones shows when the model is known."""

    def __init__(self, strength_model: float = 1.0, choose: Choose | None = None) -> None:
        super().__init__(strength_model=strength_model, strength_clip=0.0)
        self.choose = choose
        self.need_weight_init = False
        self.weights: dict[str, HostDelta] = {}
        self.weights_clip: dict[str, HostDelta] = {}

    def add_hook_patches(self, model: Any, model_options: Any, target_dict: Any, registered: Any) -> bool:
        """Called by the host before a run, once for each model."""
        if target_dict.get("target") != comfy.hooks.EnumWeightTarget.Clip and self.choose and self._strength_model:
            self.weights = _patches(self.choose(decoder_shapes(model)))
        return bool(super().add_hook_patches(model, model_options, target_dict, registered))

    def clone(self) -> Any:
        """The host clones hooks where conditionings are combined."""
        made = super().clone()
        made.choose = self.choose
        return made


def decoder_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a MODEL's decoder, by the names of its modules.

    Raises:
        ValueError: for a MODEL that is none of ours.
    """
    decoder = song_model(model).diffusion_model.decoder
    stored = {
        key.removesuffix(WEIGHT): tuple(value.shape)
        for key, value in decoder.state_dict().items()
        if key.endswith(WEIGHT)
    }
    return stored | packed_shapes(decoder)


def apply(model: Any, deltas: Deltas, strength: float) -> Any:
    """A clone of a MODEL with the deltas as patches; at strength 0 the MODEL itself, so nothing is computed anew.

    Raises:
        ValueError: for a MODEL that is none of ours, or a module that it lacks.
    """
    song_model(model)
    if not strength or not deltas:
        return model
    patched, patches = model.clone(), _patches(deltas)
    left = patches.keys() - set(patched.add_patches(patches, strength))
    if left:
        raise ValueError(f"lora: the model has no {', '.join(sorted(left))}; match the adapter to this decoder first")
    return patched


def hook(choose: Choose, strength: float, before: Any = None) -> Any:
    """HOOKS for conditionings: those that came before, and one more whose deltas `choose` picks for a decoder."""
    group = before.clone() if before is not None else comfy.hooks.HookGroup()
    group.add(SongHook(strength, choose))
    return group


def _patches(deltas: Deltas) -> dict[str, HostDelta]:
    """By the host's names of the weights."""
    return {key: HostDelta({key}, (delta,)) for key, delta in ((f"{DECODER}{n}{WEIGHT}", d) for n, d in deltas.items())}
