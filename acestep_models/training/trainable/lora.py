"""A frozen linear layer with a trained low-rank branch beside it (spec/lora.md §2.4, §2.5)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...adapters.delta import Delta, LoKr, LowRank
from ...adapters.peft_folder import factors, is_whole


class Setting(NamedTuple):
    """What all trained layers share; `factor` is the wished size of the smaller LoKr factor, -1 near the root."""

    rank: int
    alpha: float
    dropout: float = 0.0
    factor: int = -1

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Trained(nn.Module, ABC):
    """A linear layer of the decoder with its own frozen weight, and a branch in x's dtype.

    The parameters of the branch are fp32 and cast where they are used, so that x is never copied to fp32 and layers
    that see the same x keep one x for their gradients.
    """

    def __init__(self, plain: nn.Linear, setting: Setting) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias  # the same parameters: the decoder's keys stay
        self.setting = setting

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        base = F.linear(x, self.weight, self.bias)
        return base + self.branch(F.dropout(x, self.setting.dropout, self.training))

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """What is added, x [..., in] -> [..., out]."""

    @abstractmethod
    def delta(self, values: dict[str, Tensor]) -> Delta:
        """The branch as data, with `values` by the name of its parameters."""

    @abstractmethod
    def values_of(self, delta: Delta) -> dict[str, Tensor]:
        """The inverse of `delta`; empty if that is of another kind."""


class TrainedLoRA(Trained):
    """scale * up @ down; down starts as PEFT's (Kaiming, uniform), up as zero."""

    def __init__(self, plain: nn.Linear, setting: Setting, generator: torch.Generator) -> None:
        super().__init__(plain, setting)
        out, width = plain.weight.shape
        place = plain.weight.device
        self.down = nn.Parameter(uniform((setting.rank, width), generator).to(place))  # [rank, in]
        self.up = nn.Parameter(torch.zeros(out, setting.rank, device=place))  # [out, rank]

    def branch(self, x: Tensor) -> Tensor:
        narrow = F.linear(x, self.down.to(x.dtype)) * self.setting.scale  # [..., rank]
        return F.linear(narrow, self.up.to(x.dtype))

    def delta(self, values: dict[str, Tensor]) -> Delta:
        return LowRank(values["down"], values["up"], self.setting.scale)

    def values_of(self, delta: Delta) -> dict[str, Tensor]:
        return {"down": delta.down, "up": delta.up} if isinstance(delta, LowRank) else {}


class TrainedLoKr(Trained):
    """scale * kron(w1, w2) without ever building it; starts as LyCORIS does, the last factor zero.

    w1 [out1, in1] is the small one; w2 [out2, in2] is whole where the rank is at least half its longer side, else
    w2_a [out2, rank] @ w2_b [rank, in2] (PEFT's rule).
    """

    def __init__(self, plain: nn.Linear, setting: Setting, generator: torch.Generator) -> None:
        super().__init__(plain, setting)
        (out1, out2), (in1, in2) = (factors(int(size), setting.factor) for size in plain.weight.shape)
        place = plain.weight.device
        self.w1 = nn.Parameter(uniform((out1, in1), generator).to(place))
        if is_whole(setting.rank, out2, in2):
            self.w2 = nn.Parameter(torch.zeros(out2, in2, device=place))
        else:
            self.w2_a = nn.Parameter(uniform((out2, setting.rank), generator).to(place))
            self.w2_b = nn.Parameter(torch.zeros(setting.rank, in2, device=place))

    def branch(self, x: Tensor) -> Tensor:
        w1 = self.w1.to(x.dtype)
        rows = x.unflatten(-1, (w1.shape[1], -1))  # [..., in1, in2]
        if hasattr(self, "w2"):
            rows = F.linear(rows, self.w2.to(x.dtype))  # [..., in1, out2]
        else:
            rows = F.linear(F.linear(rows, self.w2_b.to(x.dtype)), self.w2_a.to(x.dtype))
        return ((w1 * self.setting.scale) @ rows).flatten(-2)  # [..., out1 * out2]

    def delta(self, values: dict[str, Tensor]) -> Delta:
        right = (values["w2"],) if "w2" in values else (values["w2_a"], values["w2_b"])
        return LoKr((values["w1"],), right, self.setting.scale)

    def values_of(self, delta: Delta) -> dict[str, Tensor]:
        if not isinstance(delta, LoKr) or len(delta.left) != 1 or delta.core is not None:
            return {}
        names = ("w2",) if len(delta.right) == 1 else ("w2_a", "w2_b")
        return {"w1": delta.left[0], **dict(zip(names, delta.right, strict=True))}


def uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Kaiming's start with a = sqrt(5), as PEFT: uniform within 1 / sqrt(in), fp32 on the CPU."""
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])
