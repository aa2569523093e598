"""One token from a row of logits, exactly and without sorting (spec/planner.md §4.1, §4.2).

Probabilities become whole numbers. Their sums do not depend on the order in which they are taken, so a row gives the
same token alone and in a batch, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT = 2.0**44  # what the likeliest token weighs; 2^18 of them still fit into 63 bits
DIGITS = 1 << 16  # an ordered 32-bit number has two digits to this base
BLOCK = 256
HOTTEST = 2.0


@dataclass(frozen=True)
class TokenSampling:
    """How a token is drawn: logits / temperature, then the `top_k` likeliest, then those that have at least `min_p`
    of the likeliest one's probability, then the fewest that together have `top_p` of what is left.

    `temperature` 0 takes the likeliest token; `top_k` 0, `min_p` 0 and `top_p` 1 switch a step off. Equally likely
    tokens stay or go together.

    Raises:
        ValueError: a number out of its range.
    """

    temperature: float = 0.85
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name, high in (("temperature", HOTTEST), ("top_p", 1.0), ("min_p", 1.0)):
            value = getattr(self, name)
            if not 0.0 <= value <= high:
                raise ValueError(f"{name} must be between 0 and {high:g}, got {value!r}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or a number of tokens, got {self.top_k!r}")


def generator(seed: int) -> torch.Generator:
    """The source of one song's uniform numbers; seeds count modulo 2^64."""
    return torch.Generator("cpu").manual_seed(seed % 2**64)


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """The first `count` uniform numbers in [0, 1) of every seed, float32 [count, seeds] on the CPU."""
    return torch.stack([torch.rand(count, generator=generator(seed)) for seed in seeds], dim=1)  # [count, N]


def pick(logits: Tensor, uniform: Tensor, sampling: TokenSampling) -> Tensor:
    """One index a row: logits float32 [N, V] and numbers [N] in [0, 1) -> int64 [N] on the logits' device.

    The number is looked up in the cumulated probabilities of the kept tokens, in the order of their indices. Nothing
    here waits for the device, so a CUDA graph can hold it. Every row needs a logit above -inf.
    """
    if sampling.temperature <= 0:
        return logits.argmax(dim=-1)
    if logits.device.type == "cpu":  # one row fits into a core's cache, eight do not
        rows = zip(logits.split(1), uniform.split(1), strict=True)
        return torch.cat([_draw(row, number, sampling) for row, number in rows])
    return _draw(logits, uniform, sampling)


def _draw(logits: Tensor, uniform: Tensor, sampling: TokenSampling) -> Tensor:
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    mass = _kept(logits, _masses(logits, sampling.temperature, wide), sampling, wide)  # [N, V]
    whole = mass.sum(dim=1, keepdim=True).to(wide)  # [N, 1]
    index, _ = _reach(mass, (uniform[:, None].to(wide) * whole).long())
    return index[:, 0].clamp(max=logits.shape[1] - 1)


def _masses(logits: Tensor, temperature: float, wide: torch.dtype) -> Tensor:
    """What each token of a row weighs, int64 [N, V]; the likeliest weighs UNIT."""
    scaled = logits.to(wide) / temperature
    return ((scaled - scaled.amax(dim=1, keepdim=True)).exp() * UNIT).long()


def _kept(logits: Tensor, mass: Tensor, sampling: TokenSampling, wide: torch.dtype) -> Tensor:
    """The masses, 0 where a token is left out."""
    if 0 < sampling.top_k < logits.shape[1]:
        least = logits.topk(sampling.top_k, dim=1).values[:, -1:]  # [N, 1]
        mass = mass.where(logits >= least, 0)
    if sampling.min_p > 0:
        mass = mass.where(mass >= sampling.min_p * UNIT, 0)
    if sampling.top_p >= 1:
        return mass
    goal = (mass.sum(dim=1, keepdim=True).to(wide) * sampling.top_p).ceil().long().clamp(min=1)  # [N, 1]
    rank = _ranks(logits)
    return mass.where(rank <= _last_rank(rank, mass, goal), 0)


def _ranks(logits: Tensor) -> Tensor:
    """A 32-bit number for every logit, int64 [N, V]: the larger the logit the smaller its number, equal for equal."""
    bits = (logits + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    return 0x7FFFFFFF - (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _last_rank(rank: Tensor, mass: Tensor, goal: Tensor) -> Tensor:
    """The smallest rank up to which the tokens weigh `goal` [N, 1] together, int64 [N, 1], found digit by digit."""
    high = rank // DIGITS
    digit, above = _reach(_histogram(high, mass), goal - 1)
    inside = mass.where(high == digit, 0)
    low, _ = _reach(_histogram(rank % DIGITS, inside), goal - 1 - above)
    return digit * DIGITS + low


def _histogram(digit: Tensor, mass: Tensor) -> Tensor:
    """How much the tokens of each digit weigh, [N, DIGITS]."""
    empty = torch.zeros(mass.shape[0], DIGITS, dtype=mass.dtype, device=mass.device)
    return empty.scatter_add_(1, digit, mass)


def _reach(mass: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Where the cumulated mass [N, V] first exceeds `goal` [N, 1], and what there is before it; both int64 [N, 1].

    Sums of blocks first, then one block: a tenth of the additions of a cumulated sum, and no long scan on a GPU.
    """
    filled = F.pad(mass, (0, -mass.shape[1] % BLOCK))
    blocks = filled.unflatten(1, (-1, BLOCK))  # [N, V / BLOCK, BLOCK]
    block, before = _reach_once(blocks.sum(dim=2), goal)
    inner = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0]  # [N, BLOCK]
    at, inside = _reach_once(inner, goal - before)
    return block * BLOCK + at, before + inside


def _reach_once(mass: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    ends = mass.cumsum(dim=1)
    at = (ends <= goal).sum(dim=1, keepdim=True).clamp(max=mass.shape[1] - 1)
    return at, (ends - mass).gather(1, at)
