"""What an adapter adds to one weight, as data: low-rank, LoKr, LoHa, a whole matrix, DoRA (spec/lora.md §3.3).

A weight [out, in, taps ...] counts as the matrix [out, in * taps]; so does everything here that is called `matrix`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .factors import are_around, are_halves, is_side, product, shapes_of, side_product, tucker

_D = TypeVar("_D", bound="Delta")

SMALLEST_NORM = torch.finfo(torch.float32).tiny  # a row of zeros stays one, where PEFT would divide by zero


@dataclass(frozen=True, eq=False)
class Delta(ABC):
    """What is added to one weight W at strength 1."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in) of the matrix."""

    @property
    def rank(self) -> int | None:
        """The inner dimension of the factors, None where nothing is factored."""
        return None

    @abstractmethod
    def matrix(self) -> Tensor:
        """[out, in] float32, scale included."""

    @abstractmethod
    def scaled(self: _D, factor: float) -> _D:
        """The same with `factor` times its effect."""

    def to(self: _D, device: torch.device) -> _D:
        """The same on another device, in float32."""
        return replace(self, **{field.name: _moved(getattr(self, field.name), device) for field in fields(self)})

    def added_to(self, weight: Tensor, strength: float) -> Tensor:
        """weight [out, in] float32 with `strength` times the delta; a new tensor."""
        return weight.add(self.matrix(), alpha=strength)


@dataclass(frozen=True, eq=False)
class LowRank(Delta):
    """LoRA: scale * up @ down.

    Attributes:
        down: [rank, in] ("A"), or [rank, in, taps] of a convolution.
        up: [out, rank] ("B"), or [out, rank, 1].
        scale: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    kind: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        if not are_halves(self.up, self.down):
            raise ValueError(
                f"the two halves of a LoRA do not belong together: down is {list(self.down.shape)} and up is "
                f"{list(self.up.shape)}, expected [rank, in] and [out, rank]; the file is damaged or was mixed up"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down[0].numel()

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def matrix(self) -> Tensor:
        return product(self.up, self.down).mul_(self.scale)

    def scaled(self, factor: float) -> LowRank:
        return replace(self, scale=self.scale * factor)

    def added_to(self, weight: Tensor, strength: float) -> Tensor:
        up, down = self.up.flatten(1).float(), self.down.flatten(1).float()
        return torch.addmm(weight, up, down, alpha=strength * self.scale)


@dataclass(frozen=True, eq=False)
class LoKr(Delta):
    """LyCORIS LoKr: scale * kron(left, right).

    Attributes:
        left: one matrix ("w1"), or two whose product it is ("w1_a" [out1, rank], "w1_b" [rank, in1]).
        right: the same for "w2"; whole, it may have taps [out2, in2, taps ...]; with a core its factors are
            "w2_a" [rank, out2] and "w2_b" [rank, in2].
        scale: alpha / rank; 1 where both sides are whole.
        core: "t2" [rank, rank, taps ...] of a Tucker decomposition, or None.
    """

    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    scale: float = 1.0
    core: Tensor | None = None
    kind: ClassVar[str] = "lokr"

    def __post_init__(self) -> None:
        right_fits = is_side(self.right, taps=True) if self.core is None else are_around(self.core, self.right)
        if not (is_side(self.left, taps=False) and right_fits):
            core = "" if self.core is None else f" around t2 {list(self.core.shape)}"
            raise ValueError(
                f"the factors of a LoKr do not belong together: w1 {shapes_of(self.left)} and w2 "
                f"{shapes_of(self.right)}{core}, expected one matrix or [out, rank] and [rank, in] each; the file is "
                "damaged or was mixed up"
            )

    @property
    def shape(self) -> tuple[int, int]:
        left = self.left[0].shape[0], self.left[-1].shape[1]
        if self.core is not None:
            return left[0] * self.right[0].shape[1], left[1] * self.right[1].shape[1] * self.core[0, 0].numel()
        return left[0] * self.right[0].shape[0], left[1] * self.right[-1][0].numel()

    @property
    def rank(self) -> int | None:
        # The rank of LyCORIS is the one that alpha is divided by: w2's where it is factored, else w1's.
        factored = next((side for side in (self.right, self.left) if len(side) == 2), None)
        return None if factored is None else factored[1].shape[0]

    def matrix(self) -> Tensor:
        left, right = side_product(self.left), self._right()
        left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
        return torch.kron(left, right).flatten(1).mul_(self.scale)

    def scaled(self, factor: float) -> LoKr:
        return replace(self, scale=self.scale * factor)

    def _right(self) -> Tensor:
        return side_product(self.right) if self.core is None else tucker(self.core, self.right)


@dataclass(frozen=True, eq=False)
class LoHa(Delta):
    """LyCORIS LoHa: scale * (first[0] @ first[1]) * (second[0] @ second[1]), element by element.

    Attributes:
        first, second: "w1_a" [out, rank] and "w1_b" [rank, in]; with cores "w1_a" [rank, out].
        scale: alpha / rank.
        cores: "t1" and "t2" [rank, rank, taps ...] of a Tucker decomposition, or None.
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    scale: float = 1.0
    cores: tuple[Tensor, Tensor] | None = None
    kind: ClassVar[str] = "loha"

    def __post_init__(self) -> None:
        cores = self.cores or ()
        pairs = (self.first, self.second)
        fit = (
            all(are_around(*one) for one in zip(cores, pairs, strict=True))
            if cores
            else all(are_halves(*pair) for pair in pairs)
        )
        if not fit or len({self._whole(index) for index in range(len(pairs))}) > 1:
            around = f" around t1 and t2 {shapes_of(cores)}" if cores else ""
            raise ValueError(
                f"the factors of a LoHa do not belong together: w1 {shapes_of(self.first)} and w2 "
                f"{shapes_of(self.second)}{around}, expected [out, rank] and [rank, in] twice, of one size; the "
                "file is damaged or was mixed up"
            )

    def _whole(self, index: int) -> tuple[int, ...]:
        """[out, in, taps ...] of the first or the second product."""
        pair = (self.first, self.second)[index]
        if self.cores is not None:
            return pair[0].shape[1], pair[1].shape[1], *self.cores[index].shape[2:]
        return pair[0].shape[0], *pair[1].shape[1:]

    @property
    def shape(self) -> tuple[int, int]:
        if self.cores is not None:
            return self.first[0].shape[1], self.first[1].shape[1] * self.cores[0][0, 0].numel()
        return self.first[0].shape[0], self.first[1][0].numel()

    @property
    def rank(self) -> int:
        return self.first[1].shape[0]

    def matrix(self) -> Tensor:
        if self.cores is not None:
            first, second = tucker(self.cores[0], self.first), tucker(self.cores[1], self.second)
            return (first * second).flatten(1).mul_(self.scale)
        return product(*self.first).mul_(product(*self.second)).mul_(self.scale)

    def scaled(self, factor: float) -> LoHa:
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True, eq=False)
class Full(Delta):
    """The whole difference: diff [out, in, taps ...], or [out] of a weight that is a vector."""

    diff: Tensor
    kind: ClassVar[str] = "full"

    def __post_init__(self) -> None:
        if self.diff.ndim == 0:
            raise ValueError("a whole difference is one number, expected [out, in] or [out]; the file is damaged")

    @property
    def shape(self) -> tuple[int, int]:
        return self.diff.shape[0], self.diff[0].numel()

    def matrix(self) -> Tensor:
        return self.diff.float().reshape(self.shape).clone()

    def scaled(self, factor: float) -> Full:
        return Full(self.diff.float() * factor)


@dataclass(frozen=True, eq=False)
class DoRA(Delta):
    """DoRA as PEFT merges it: each row of W + D is set to the length `magnitude`.

    What it adds depends on W, so `matrix` is D alone: what turns the rows before their lengths are set.

    Attributes:
        delta: D.
        magnitude: [out], the length of every row at strength 1.
        strength: how much of the way from W to the merged weight; what `scaled` changes.
    """

    delta: Delta
    magnitude: Tensor
    strength: float = 1.0
    kind: ClassVar[str] = "dora"

    def __post_init__(self) -> None:
        if self.magnitude.shape != (self.delta.shape[0],):
            raise ValueError(
                f"the magnitudes of a DoRA have the shape {list(self.magnitude.shape)}, expected "
                f"[{self.delta.shape[0]}]: one for every output of its LoRA; the file is damaged or was mixed up"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.delta.shape

    @property
    def rank(self) -> int | None:
        return self.delta.rank

    def matrix(self) -> Tensor:
        return self.delta.matrix()

    def scaled(self, factor: float) -> DoRA:
        return replace(self, strength=self.strength * factor)

    def added_to(self, weight: Tensor, strength: float) -> Tensor:
        turned = self.delta.added_to(weight, 1.0)
        lengths = turned.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
        merged = turned.mul_(self.magnitude.float()[:, None] / lengths)
        return weight + (strength * self.strength) * (merged - weight)


def merge_into(weight: Tensor, delta: Delta, strength: float) -> Tensor:
    """The weight with an adapter in it, in float32, on the weight's device: W + strength * delta.

    DoRA goes to W + strength * (m * (W + D) / ||W + D|| - W): PEFT's merge at 1, W at 0, linear between and beyond.

    Args:
        weight: [out, in, taps ...] in any dtype; it is not changed.

    Raises:
        ValueError: if the delta belongs to a weight of another shape.
    """
    rows = weight.reshape(weight.shape[0], -1).float()
    if tuple(rows.shape) != delta.shape:
        raise ValueError(
            f"an adapter for a weight of {list(delta.shape)} cannot be added to one of {list(rows.shape)}: it was made "
            "for another model"
        )
    return delta.to(weight.device).added_to(rows, strength).reshape(weight.shape)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(one, device) for one in value)
    if isinstance(value, Delta):
        return value.to(device)
    return value.to(device, torch.float32) if isinstance(value, Tensor) else value
