"""A source of known latents, and songs followed by hand: what a pipeline with a source is held against."""

from __future__ import annotations

from itertools import pairwise

import torch

from acestep_models.pipelines.listen import Source
from acestep_models.pipelines.reference import Reference
from acestep_models.units import HOP


def source(frames=53, extra=0, seed=1):
    """Random latents [1, 64, frames] and a waveform as long as they are, `extra` samples more."""
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = torch.randn(1, 64, frames, generator=generator)
    return Source(latents, 0.1 * torch.randn(1, 2, frames * HOP + extra, generator=generator))


def reference(count=1, seed=2):
    """The timbre of `count` recordings."""
    return Reference(torch.randn(count, 750, 64, generator=torch.Generator("cpu").manual_seed(seed)))


class ByHand:
    """Steps written out, without the sampling package; `batches` is the set of each step, guided by APG if `scale`."""

    def __init__(self, models, batches, scale=None):
        self.dit, self.batches, self.scale, self.average = models.decoder.handle.module, batches, scale, None

    def network(self, x, t, batch, tokens):
        v = self.dit(x.transpose(1, 2), batch.context, tokens, torch.full((len(x),), t), token_mask=batch.mask)
        return v.transpose(1, 2)

    def velocity(self, x, t, index, corrector=False):
        """Momentum runs on across sets; a corrector is plain guidance."""
        batch = self.batches[index]
        cond = self.network(x, t, batch, batch.tokens)
        if self.scale is None:
            return cond
        step = cond - self.network(x, t, batch, batch.null.expand_as(batch.tokens))
        if corrector:
            return cond + (self.scale - 1) * step
        self.average = step if self.average is None else step - 0.75 * self.average
        step = self.average * (2.5 / self.average.norm(dim=2, keepdim=True)).clamp(max=1.0)
        along = cond / cond.norm(dim=2, keepdim=True)
        return cond + (self.scale - 1) * (step - (step * along).sum(2, keepdim=True) * along)

    def follow(self, x, times, solver, draw=None):
        """Latents [B, 64, T] from x at the first time; draw(step) is fresh noise."""
        with torch.inference_mode():
            for index, (t, after) in enumerate(pairwise(times)):
                v = self.velocity(x, t, index)
                if solver == "sde":
                    music = x - t * v
                    x = after * draw(index) + (1 - after) * music if after else music
                    continue
                if solver == "heun" and after:
                    v = (v + self.velocity(x + (after - t) * v, after, index, corrector=True)) / 2
                x = x + (after - t) * v
        return x
