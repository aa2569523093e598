"""Weights in eight bits or fewer: made when a model is loaded or as the file has them, multiplied out at each use.

Packed are the matrices of the transformer layers, which are nearly all of a model: int8 with one scale for each row of
outputs, symmetric; fp8 (e4m3), with the scale that the file brings, if it does; or the blocks of a GGUF file. In high
precision stay norms, scale tables, embeddings, biases, convolutions, what makes the times, and the code tokenizer as a
whole, in which a rounding error is another code.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import META
from .blocks import BLOCKS, SLICE_CARD, Block, unblock

SCALE = "scale_weight"  # the host's own name of such a scale
SCALES = (f".{SCALE}", ".weight_scale")  # as its older and newer fp8 files have it
LARGEST = 127
FP8 = torch.float8_e4m3fn
EIGHT_BITS = (torch.int8, FP8)
WHOLE_PARTS = ("tokenizer", "vae")
_MATRIX = re.compile(r"(.*\.)?layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj")
# torch's int8 kernel for the CPU is twice as fast as a bf16 matrix for few rows (a planner's step) and slower for
# many. It reads whole vectors: other sizes crash it, and in fp32 it is ten times as slow.
FEW_ROWS, VECTOR = 8, 32
UNBLOCKING_BYTES = 11  # for each number of a slice, while blocks become numbers


def is_packed(part: str, name: str) -> bool:
    """Whether the layer `name` (without .weight) of a part is packed."""
    return part not in WHOLE_PARTS and _MATRIX.fullmatch(name) is not None


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> int8 [out, in] and scales fp32 [out, 1]; weight is nearly their product.

    The scales are bf16 numbers, so that a kernel that wants them in bf16 computes with the same ones.

    Raises:
        ValueError: for weights that are not finite.
    """
    rows = weight.float()
    largest = rows.abs().amax(dim=1, keepdim=True)  # [out, 1]
    if not bool(largest.isfinite().all()):
        raise ValueError("some of its numbers are not finite, as in a damaged file")
    scale = (largest / LARGEST).bfloat16().float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scale


def packed_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times a packed weight [out, in] with scales [out, 1] -> [..., out] in the dtype of x.

    The scale is multiplied to what comes out: no full matrix is rounded, and an int8 or fp8 number is exact in bf16.
    """
    scale = scale.to(x.dtype).flatten()  # [out]
    if _has_kernel(x, weight):
        out = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]).contiguous(), weight, scale)
        out = out.reshape(*x.shape[:-1], -1)
    else:
        out = F.linear(x, weight.to(x.dtype)).mul_(scale)  # in place: it may be the largest tensor of a pass
    return out if bias is None else out + bias


def _has_kernel(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and weight.dtype == torch.int8
        and 0 < x.numel() // x.shape[-1] <= FEW_ROWS
        and not any(size % VECTOR for size in weight.shape)
        and hasattr(torch, "_weight_int8pack_mm")
    )


def rows_of(scale: Tensor | None, weight: Tensor) -> Tensor:
    """The scale that a file has for a weight [out, ...], as fp32 [out, 1].

    fp8 without one stands for itself.

    Raises:
        ValueError: unless it is one number, or one for each row; if int8 has none; for a weight without rows.
    """
    if not weight.ndim:
        raise ValueError("it is a single number, expected rows of them")
    rows = weight.shape[0]
    if scale is None and weight.dtype == torch.int8:
        raise ValueError("it is in int8 without a scale beside it (.scale_weight), so its numbers are not known")
    if scale is None:
        return torch.ones(rows, 1)
    if scale.numel() not in (1, rows):
        raise ValueError(f"its scale has the shape {list(scale.shape)}, expected one number or {rows}")
    return scale.float().reshape(-1, 1).expand(rows, 1).clone()


class Packed(nn.Module, ABC):
    """A linear layer whose weight is not kept as the numbers that it stands for, for inference.

    Attributes:
        weight: [out, ...], of a kind of its own.
        dtype: what a weight that a patch was merged into is kept in.
        packed_bytes: what the weight takes, as long as it is packed.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    packed_bytes: int

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype = in_features, out_features, dtype

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self.product(x, self.weight, None if self.bias is None else self.bias.to(x))

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., in] times a packed weight -> [..., out] in the dtype of x."""

    @abstractmethod
    def numbers(self, weight: Tensor) -> Tensor:
        """The weight [out, in] in float32 that a packed one, whose own numbers may be in any dtype, stands for."""

    def unpacking_bytes(self, dtype: torch.dtype) -> int:
        """What a use in `dtype` needs on a card beside what comes out: the matrix that it is multiplied out to."""
        return self.out_features * self.in_features * dtype.itemsize

    @abstractmethod
    def is_packed(self) -> bool:
        """Whether the weight is a packed one now, and not a patched one."""

    def unpacked(self) -> Tensor:
        """The weight [out, in] in float32."""
        return self.numbers(self.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What is packed moves to other devices, and keeps its dtype: fp8 in another would pass for unscaled."""
        kept = [value for name, value in self.named_parameters(recurse=False) if name != "bias"]

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            ours = any(tensor is one for one in kept) and moved.dtype != tensor.dtype
            return tensor.to(moved.device) if ours else moved

        return super()._apply(move, recurse)  # type: ignore[no-untyped-call]  # torch has no types for it


class PackedLinear(Packed):
    """A linear layer whose weight has eight bits a number.

    Attributes:
        weight: int8 or fp8 [out, in].
        scale_weight: fp32 [out, 1].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(in_features, out_features, dtype)
        self.packed_bytes = out_features * in_features
        self.weight = _fixed(out_features, in_features, device=device, dtype=torch.int8)
        self.scale_weight = _fixed(out_features, 1, device=device, dtype=torch.float32)
        self.bias = _fixed(out_features, device=device, dtype=dtype) if bias else None

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return packed_linear(x, weight, self.scale_weight.to(x.device), bias)

    def numbers(self, weight: Tensor) -> Tensor:
        return weight.float() * self.scale_weight.to(weight.device)

    def is_packed(self) -> bool:
        return self.weight.dtype in EIGHT_BITS


class BlockLinear(Packed):
    """A linear layer whose weight is in the blocks of a GGUF file.

    Attributes:
        weight: uint8 [out, bytes of a row].
        block: the kind of its blocks.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        block: Block,
    ) -> None:
        super().__init__(in_features, out_features, dtype)
        width = block.row_bytes(in_features)
        self.block, self.packed_bytes = block, out_features * width
        self.weight = _fixed(out_features, width, device=device, dtype=torch.uint8)
        self.bias = _fixed(out_features, device=device, dtype=dtype) if bias else None

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Its numbers are made in float32 and rounded once, to the dtype of x."""
        return F.linear(x, unblock(weight, self.block, x.dtype), bias)

    def unpacking_bytes(self, dtype: torch.dtype) -> int:
        """With the slice of it that is float32, in its parts and as their product."""
        numbers = self.out_features * self.in_features
        return super().unpacking_bytes(dtype) + UNBLOCKING_BYTES * min(numbers, max(SLICE_CARD, self.in_features))

    def numbers(self, weight: Tensor) -> Tensor:
        """A byte is exact in every dtype that the host may have made of it."""
        return unblock(weight.to(torch.uint8), self.block, torch.float32)

    def is_packed(self) -> bool:
        return self.weight.dtype == torch.uint8


def unpacking_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Bytes that a pass of a network in `dtype` needs on a card for its packed matrices, one at a time; 0 without any.

    No estimate of activations knows of them.
    """
    packed = (layer for layer in module.modules() if isinstance(layer, Packed) and layer.is_packed())
    return max((layer.unpacking_bytes(dtype) for layer in packed), default=0)


def _fixed(*shape: int, device: torch.device | str | None, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, device=device, dtype=dtype), requires_grad=False)


@dataclass(frozen=True)
class Packing:
    """How packed layers are made.

    Attributes:
        make: their class, such as `PackedLinear`.
        patched: what a weight is kept in that a patch was merged into.
        int8: whether matrices that the file has in more than eight bits become int8; else they stay.
        make_blocks: the class of those that the file has in blocks, such as `BlockLinear`.
    """

    make: Callable[..., Any]
    patched: torch.dtype
    int8: bool = True
    make_blocks: Callable[..., Any] = BlockLinear

    def wants(self, part: str, layer: str, in_file: Collection[str]) -> bool:
        """Whether a layer of a part is packed, given those that are in the file."""
        return is_packed(part, layer) and (self.int8 or layer in in_file)


def pack_layers(
    module: nn.Module, part: str, packing: Packing, in_file: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Put packed layers, empty ones on meta, in the place of those that `packing` wants; `in_file` says as what the
    file has those that are packed there."""
    for name, layer in list(module.named_modules()):
        if packing.wants(part, name, in_file):
            owner, _, leaf = name.rpartition(".")
            sizes = layer.in_features, layer.out_features, layer.bias is not None, META, packing.patched
            block = BLOCKS.get(in_file.get(name, ""))
            made = packing.make(*sizes) if block is None else packing.make_blocks(*sizes, block=block)
            setattr(module.get_submodule(owner), leaf, made)


def scaled_layer(key: str) -> str | None:
    """The layer whose fp8 scale a key of a file names, None if it is no scale."""
    return next((key.removesuffix(ending) for ending in SCALES if key.endswith(ending)), None)


def pack_weight(name: str, weight: Tensor, given: Tensor | None = None) -> dict[str, Tensor]:
    """The two tensors that a packed layer loads in place of its weight.

    What a file has in eight bits stays as it is, with the scale `given` for all of it or each row; any other weight
    is multiplied by it, where there is one, before it is rounded.

    Raises:
        ValueError: for weights that are not finite, or a scale of another shape.
    """
    if weight.dtype in EIGHT_BITS:
        packed, scale = weight, rows_of(given, weight)
    else:
        packed, scale = quantise_rows(weight if given is None else weight.float() * rows_of(given, weight))
    return {f"{name}.weight": packed, f"{name}.{SCALE}": scale}
