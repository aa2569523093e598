"""The host's kinds of packed linear layers: they stream, take patches, and count what they really weigh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...acestep_models.loading.blocks import BLOCKS, unblock
from ...acestep_models.loading.packed import FP8, SCALE, BlockLinear, Packed, PackedLinear

KINDS = {torch.int8: "int8", FP8: "fp8"}


class HostPacked(Packed, comfy.ops.CastWeightBiasOp):
    """Packed wherever it lies; a patched weight is multiplied out, patched, and not packed again.

    The host asks `convert_weight` and `set_weight` by these names before and after it patches `weight`.
    """

    comfy_cast_weights = True
    weight_function: list[Any]
    counted = False  # whether the host knows how large a patched weight is

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        comfy.ops.run_every_op()
        plain = not self.is_packed() or self._is_patched_at_use()
        as_stored = {} if plain else {"dtype": self.weight.dtype, "bias_dtype": x.dtype}
        weight, bias, stream = comfy.ops.cast_bias_weight(self, x, offloadable=True, **as_stored)
        out = F.linear(x, weight, bias) if plain else self.product(x, weight, bias)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return out

    def convert_weight(self, weight: Tensor, inplace: bool = False, **how: Any) -> Tensor:
        """The packed numbers [out, in], in any dtype, as the weight that they stand for, in float32."""
        return self.numbers(weight)

    def set_weight(
        self, weight: Tensor, inplace_update: bool = False, seed: Any = None, return_weight: bool = False, **how: Any
    ) -> Tensor | None:
        """Take a patched weight [out, in]; the host keeps the packed one and puts it back.

        Raises:
            ValueError: for a patch in place, as hooks make it: there is room for the packed numbers only.
        """
        if return_weight:
            return weight
        if inplace_update:
            raise ValueError(
                "model: a LoRA on a conditioning (HookLoRA) rewrites weights in place, which is not "
                "possible in eight bits or fewer; put it on the model with ApplyLoRA, or load a file that is not "
                "quantised with precision auto"
            )
        self.weight, self.counted = nn.Parameter(weight.to(self.dtype), requires_grad=False), False
        return None

    def _is_patched_at_use(self) -> bool:
        """Whether the host patches the weight when it fetches it; each patch begins with `convert_weight`.

        Raises:
            ValueError: for a function of another kind, which would be given the packed numbers.
        """
        functions = self.weight_function
        if functions and not hasattr(functions[0], "convert_func"):
            raise ValueError(
                "model: a node before this one wraps the weights of the model, which eight bits or fewer do not "
                "allow; take that node out, or load a file that is not quantised with precision auto"
            )
        return bool(functions) or getattr(self, "weight_lowvram_function", None) is not None


class HostPackedLinear(HostPacked, PackedLinear):
    """int8 or fp8. `set_scale_weight` is asked for as the host's merge nodes patch every tensor that they find."""

    def set_scale_weight(
        self, weight: Tensor, inplace_update: bool = False, seed: Any = None, return_weight: bool = False, **how: Any
    ) -> Tensor | None:
        """Take no patched scale: the packed numbers, which the host keeps for other merges, are read with this one."""
        return weight if return_weight else None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """A patched weight goes into a file without the scale, which is not its own."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.is_packed():
            del destination[prefix + SCALE]


class HostBlockLinear(HostPacked, BlockLinear):
    """Blocks of a GGUF file."""


def has_packed(module: nn.Module) -> bool:
    """Whether any layer of a network is packed."""
    return any(isinstance(layer, HostPacked) for layer in module.modules())


def packed_as(module: nn.Module) -> str:
    """In what the packed layers of a network are: such as "int8", "fp8" or "Q4_K and Q6_K", or nothing."""
    found = {_kind(layer) for layer in module.modules() if isinstance(layer, HostPacked)}
    return " and ".join(kind for kind in (*KINDS.values(), *BLOCKS) if kind in found)


def _kind(layer: HostPacked) -> str | None:
    if isinstance(layer, BlockLinear):
        return next(name for name, block in BLOCKS.items() if block == layer.block)
    return KINDS.get(layer.weight.dtype)


def weights_in(module: nn.Module) -> int:
    """How many numbers the weights of a network stand for."""
    whole = sum(value.numel() for name, value in module.named_parameters() if not name.endswith(SCALE))
    blocks = (layer for layer in module.modules() if isinstance(layer, BlockLinear) and layer.is_packed())
    return whole + sum(layer.in_features * layer.out_features - layer.packed_bytes for layer in blocks)


def packed_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> [out, in] of the layers of a network whose weights are kept in another shape."""
    layers = module.named_modules()
    return {name: (layer.out_features, layer.in_features) for name, layer in layers if isinstance(layer, BlockLinear)}


def unblocked(network: nn.Module, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A state to be saved, in which `network` is below `prefix`, with plain weights in place of a GGUF file's blocks.

    ComfyUI's own files have no such blocks, and other programs shall read what it saves.
    """
    blocks = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, BlockLinear))
    packed = {f"{prefix}{name}.weight": layer for name, layer in blocks if layer.is_packed()}
    made = {key: unblock(state[key], layer.block, layer.dtype) for key, layer in packed.items() if key in state}
    return {**state, **made}


def count_patched(owner: Any, device: Any, budget: int, force: bool, full_load: bool) -> None:
    """After a load: matrices that it patched are larger now than the host counted, and it frees by this number.

    Those of earlier loads it has measured itself, unless it takes the size of the whole model for it.
    """
    for layer in owner.model.modules():
        if isinstance(layer, HostPacked) and not layer.is_packed():
            if full_load or not layer.counted:
                owner.model.model_loaded_weight_memory += layer.weight.nbytes - layer.packed_bytes
            layer.counted = True
