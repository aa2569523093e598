"""The host's kind of a packed linear layer: it streams, takes patches, and counts what it really weighs."""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...acestep_models.loading.packed import EIGHT_BITS, FP8, SCALE, PackedLinear, packed_linear

KINDS = {torch.int8: "int8", FP8: "fp8"}


class HostPackedLinear(PackedLinear, comfy.ops.CastWeightBiasOp):
    """Eight bits a number wherever it lies; a patched weight is multiplied out, patched, and not packed again.

    The host asks `convert_weight` and `set_weight` by these names before and after it patches `weight`, and
    `set_scale_weight` likewise, as its merge nodes patch every tensor that they find.
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
        scale = self.scale_weight.to(x.device)
        out = F.linear(x, weight, bias) if plain else packed_linear(x, weight, scale, bias)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return out

    def convert_weight(self, weight: Tensor, inplace: bool = False, **how: Any) -> Tensor:
        """The packed numbers [out, in], in any dtype, as the weight that they stand for, in float32."""
        return weight.float() * self.scale_weight.to(weight.device)

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
                "precision: a LoRA on a conditioning (HookLoRA) rewrites weights in place, which is not "
                "possible in eight bits; put it on the model with ApplyLoRA, or load a bf16 file in bf16"
            )
        self.weight, self.counted = nn.Parameter(weight.to(self.dtype), requires_grad=False), False
        return None

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

    def is_packed(self) -> bool:
        """Whether the weight is in eight bits now, and not a patched one."""
        return self.weight.dtype in EIGHT_BITS

    def _is_patched_at_use(self) -> bool:
        """Whether the host patches the weight when it fetches it; each patch begins with `convert_weight`.

        Raises:
            ValueError: for a function of another kind, which would be given the packed numbers.
        """
        functions = self.weight_function
        if functions and not hasattr(functions[0], "convert_func"):
            raise ValueError(
                "precision: a node before this one wraps the weights of the model, which eight bits do not allow; "
                "load a bf16 file in bf16, or take that node out"
            )
        return bool(functions) or getattr(self, "weight_lowvram_function", None) is not None


def has_packed(module: nn.Module) -> bool:
    """Whether any layer of a network is packed."""
    return any(isinstance(layer, HostPackedLinear) for layer in module.modules())


def packed_as(module: nn.Module) -> str:
    """In what the packed layers of a network are: "int8", "fp8", both, or nothing."""
    kinds = {layer.weight.dtype for layer in module.modules() if isinstance(layer, HostPackedLinear)}
    return " and ".join(name for dtype, name in KINDS.items() if dtype in kinds)


def count_patched(owner: Any, device: Any, budget: int, force: bool, full_load: bool) -> None:
    """After a load: matrices that it patched are larger now than the host counted, and it frees by this number.

    Those of earlier loads it has measured itself, unless it takes the size of the whole model for it.
    """
    for layer in owner.model.modules():
        if isinstance(layer, HostPackedLinear) and not layer.is_packed():
            if full_load or not layer.counted:
                owner.model.model_loaded_weight_memory += layer.weight.nbytes - layer.weight.numel()
            layer.counted = True
