"""The best low-rank stand-in for a delta, and what it loses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .delta import LowRank

# Up to this size all singular values are computed; above, that takes seconds a matrix, and only the largest are sought.
EXACT_SIZE = 512
# Of the search (Halko, Martinsson, Tropp 2011, algorithm 4.4): directions tried a direction kept, and rounds. At these
# the loss is within 1 % of the least possible even for the flat spectra of fine-tuned weights.
SPARE, ROUNDS = 2, 6


@dataclass(frozen=True, eq=False)
class Factored:
    """A low-rank stand-in.

    Attributes:
        delta: scale 1, both halves of the same length.
        error: Frobenius norm of what was lost.
        norm: Frobenius norm of the whole.
    """

    delta: LowRank
    error: float
    norm: float


def factor_matrix(matrix: Tensor, rank: int) -> Factored:
    """The singular values and vectors of a matrix [out, in], cut after the largest `rank`."""
    matrix = matrix.float()
    rank = min(rank, *matrix.shape)
    exact = min(matrix.shape) <= max(EXACT_SIZE, rank * SPARE * 2)
    up, values, down = _svd(matrix) if exact else _largest(matrix, rank * SPARE)
    delta = _balanced(up[:, :rank], values[:rank], down[:rank])
    # Squares that are subtracted would drown a small loss in rounding; so it is either the tail, or measured.
    error = values[rank:].norm() if exact else (matrix - delta.matrix()).norm()
    return Factored(delta, float(error), float(matrix.norm()))


def factor_product(delta: LowRank, rank: int) -> Factored:
    """The same for a product, which never has to be multiplied out."""
    left, left_rest = torch.linalg.qr(delta.up.flatten(1).double())
    right, right_rest = torch.linalg.qr(delta.down.flatten(1).double().mT)
    up, values, down = _svd(left_rest @ right_rest.mT * delta.scale)
    cut = _balanced(left @ up[:, :rank], values[:rank], down[:rank] @ right.mT)
    return Factored(cut, float(values[rank:].norm()), float(values.norm()))


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    up, values, down = torch.linalg.svd(matrix, full_matrices=False)
    return up, values, down


def _balanced(up: Tensor, values: Tensor, down: Tensor) -> LowRank:
    root = values.sqrt()
    return LowRank((root[:, None] * down).float(), (up * root).float())


def _largest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Roughly the largest `count` singular values [count] of a matrix [out, in], with their vectors."""
    generator = torch.Generator().manual_seed(0)  # the same file from the same input
    basis = torch.randn(matrix.shape[1], count, generator=generator).to(matrix.device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ basis).Q).Q
    basis = torch.linalg.qr(matrix @ basis).Q  # [out, count]
    up, values, down = _svd(basis.mT @ matrix)
    return basis @ up, values, down
