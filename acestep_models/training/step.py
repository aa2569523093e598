"""One optimizer step's gradient: the mean over its items, one micro-batch after the other (spec/lora.md §1.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..dit.transformer import DiT
from .batches import Batch, Draws, collate
from .noise import seed_for
from .objective import item_losses, noisy, velocity, weight
from .parallel import Workers

TIME_BINS = 4


@dataclass(frozen=True)
class Measured:
    """What one step said.

    Attributes:
        loss: mean over all items of all processes, NaN or infinite where one was.
        by_time: mean loss of the items in each quarter of the times, None where there was none.
        norm: of the gradient before clipping.
    """

    loss: float
    by_time: tuple[float | None, ...]
    norm: float

    @property
    def finite(self) -> bool:
        """Whether the step may be taken."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def batch_losses(decoder: DiT, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Mean squared error of the velocity, [B] float32; the decoder computes in `dtype`, its times stay float32."""
    x_t = noisy(batch.clean, batch.noise, batch.t)
    v = decoder(x_t.to(dtype), batch.context.to(dtype), batch.tokens.to(dtype), batch.t, batch.seen, r=batch.t)
    return item_losses(v, velocity(batch.clean, batch.noise), batch.frames)


@dataclass(frozen=True, eq=False)
class Stepper:
    """What gradients are made with.

    Attributes:
        decoder: with the adapter in it, on its device.
        parameters: the adapter's.
        check: asked before every micro-batch; raises when the user cancelled.
    """

    decoder: DiT
    parameters: Sequence[nn.Parameter]
    draws: Draws
    workers: Workers
    device: torch.device
    dtype: torch.dtype
    check: Callable[[], None]

    @property
    def items(self) -> int:
        """Items of one step over all processes."""
        options = self.draws.options
        return options.batch * options.accumulation * self.workers.count

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradient(self, step: int) -> Tensor:
        """Leave this process's part of step `step`'s gradient in the parameters.

        Returns the sums of losses and of items by time, [2, 4] float32. Doing it again gives the same.
        """
        self.clear()
        self.decoder.train()
        sums = torch.zeros(2, TIME_BINS, device=self.device)
        for first in self._micro_batches(step):
            self.check()
            sums += self._backward(first)
        return sums

    def finish(self, sums: Tensor) -> Measured:
        """Add up the processes' gradients, clip them, and say how long they were."""
        losses, counts = self.workers.sum(sums).tolist()
        for parameter in self.parameters:
            if parameter.grad is None:  # a layer that the loss does not reach
                parameter.grad = torch.zeros_like(parameter)
        if self.workers.count > 1:
            self._add_processes()
        longest = self.draws.options.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters, longest))
        by_time = tuple(loss / count if count else None for loss, count in zip(losses, counts, strict=True))
        return Measured(sum(losses) / self.items, by_time, norm)

    @torch.no_grad()
    def validate(self) -> float | None:
        """The mean loss on the fixed grid, the same in every process; None without a grid."""
        grid = self.draws.grid()
        if not grid:
            return None
        self.decoder.eval()
        total = torch.zeros(1, device=self.device)
        for item in grid[self.workers.rank :: self.workers.count]:
            self.check()
            total += batch_losses(self.decoder, collate([item]).to(self.device), self.dtype)
        return float(self.workers.sum(total)) / len(grid)

    def _add_processes(self) -> None:
        """Every process's gradient becomes the sum of all, in one message."""
        own = torch.cat([parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None])
        summed = self.workers.sum(own).split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, summed, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def _micro_batches(self, step: int) -> Iterator[int]:
        """The first item of each of this process's micro-batches: they are dealt out in turn."""
        batch, start = self.draws.options.batch, step * self.items
        return iter(range(start + self.workers.rank * batch, start + self.items, batch * self.workers.count))

    def _backward(self, first: int) -> Tensor:
        """One micro-batch: its gradient is added, its losses and count by time come back [2, 4]."""
        options = self.draws.options
        batch = collate([self.draws.item(first + place) for place in range(options.batch)]).to(self.device)
        with _own_random(seed_for(options.seed, "dropout", first), options.dropout > 0):
            losses = batch_losses(self.decoder, batch, self.dtype)  # [B]
            weighted = losses * weight(batch.t, options.weighting)
            (weighted.sum() / self.items).backward()
        bins = (batch.t * TIME_BINS).long().clamp(max=TIME_BINS - 1)  # [B]
        empty = torch.zeros(TIME_BINS, device=self.device)
        held = losses.detach()
        return torch.stack([empty.index_add(0, bins, held), empty.index_add(0, bins, torch.ones_like(held))])


@contextmanager
def _own_random(seed: int, needed: bool) -> Iterator[None]:
    """Dropout draws from torch's own generators: here from this seed, afterwards all cards' are as before."""
    if not needed:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # manual_seed seeds every card
        torch.manual_seed(seed)
        yield
