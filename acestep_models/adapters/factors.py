"""The factors of adapters: whether they belong together, and what they multiply out to."""

from __future__ import annotations

import torch
from torch import Tensor

Factors = tuple[Tensor, ...]


def are_halves(up: Tensor, down: Tensor) -> bool:
    """Whether up is [out, rank] (or [out, rank, 1 ...]) and down is [rank, in] (or [rank, in, taps ...])."""
    if min(up.ndim, down.ndim) < 2:
        return False
    return up.shape[1] == down.shape[0] and all(size == 1 for size in up.shape[2:])


def are_around(core: Tensor, factors: Factors) -> bool:
    """Whether a core [i, j, taps ...] has the factors [i, out] and [j, in]."""
    if len(factors) != 2 or core.ndim < 2 or any(factor.ndim != 2 for factor in factors):
        return False
    return core.shape[:2] == (factors[0].shape[0], factors[1].shape[0])


def is_side(side: Factors, taps: bool) -> bool:
    """Whether this is a side of a LoKr: one matrix, or two halves of one; only with `taps` of a convolution."""
    if len(side) not in (1, 2) or any(tensor.ndim < 2 or (tensor.ndim > 2 and not taps) for tensor in side):
        return False
    return len(side) == 1 or are_halves(side[0], side[1])


def product(left: Tensor, right: Tensor) -> Tensor:
    """[out, in] float32 of two halves, taps counted with the inputs."""
    return left.flatten(1).float() @ right.flatten(1).float()


def side_product(side: Factors) -> Tensor:
    """A side of a LoKr in float32."""
    return side[0].float() if len(side) == 1 else product(*side)


def tucker(core: Tensor, factors: Factors) -> Tensor:
    """[out, in, taps ...] of a core [i, j, taps ...] and factors [i, out] and [j, in] (LyCORIS, `make_weight_cp`)."""
    found = torch.einsum("ij...,jr,ip->pr...", core.float(), factors[1].float(), factors[0].float())
    return found.contiguous()  # torch.kron takes nothing else


def shapes_of(factors: Factors) -> list[list[int]]:
    """For error messages."""
    return [list(tensor.shape) for tensor in factors]
