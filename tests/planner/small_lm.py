"""A planner with few codes, so that no two sums of probabilities lie within rounding of each other."""

from __future__ import annotations

from functools import cache

import torch

from acestep_models.graphs import Graphs
from acestep_models.planner.actions import Choose, Force, Mask, Stop
from acestep_models.planner.lm import LM
from acestep_models.qwen3.model import Qwen3, Qwen3Config
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.runtime import Handle
from acestep_models.tiny.tokens import planner_json

CODES = 64


@cache
def tokenizer():
    return Tokenizer.from_json(planner_json(CODES))


@cache
def network():
    """Logits of a standard deviation of about 3."""
    config = Qwen3Config(tokenizer().size, 64, 128, 2, 4, 2, head_dim=16)
    model, source = Qwen3(config), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            parameter.copy_(1 + 0.2 * noise if name.endswith("norm.weight") else 0.35 * noise)
    return model.eval().requires_grad_(False)


def small_lm(graphs=None, dtype=torch.float32):
    """Over the one network, with graphs of its own."""
    return LM(Handle(network(), dtype), tokenizer(), "small", graphs or Graphs())


def prompt(seed, length):
    """Random text ids."""
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, tokenizer().size - CODES, (length,), generator=source).tolist())


class Replayed:
    """A recording that does the step anew: what a graph does, on any device."""

    made = 0

    def __init__(self, step):
        self._step = step

    def replay(self):
        self._step()


def replaying(counts):
    """Graphs for the CPU; `counts` gets an entry for every recording."""

    def record(step):
        counts.append(step)
        return Replayed(step)

    return Graphs(record=record, devices=("cpu",))


class Script:
    """A writer over a list of allowed sets: one id is forced, few are a choice, more are a mask.

    `again` ids of a set are hung onto what was sampled, so that texts run apart.
    """

    def __init__(self, sets, rows, few=8):
        self._sets, self._rows, self._few = sets, rows, few
        self.written = []
        self._masks = {}

    def allowed(self, written):
        """What may follow `written`, None at the end; depends on what was sampled before."""
        if len(written) >= len(self._sets):
            return None
        found = self._sets[len(written)]
        return found if len(found) == 1 or not written or written[-1] % 3 else found[:1]

    def next_action(self):
        ids = self.allowed(self.written)
        if ids is None:
            return Stop()
        if len(ids) > 1:
            return Choose(tuple(ids)) if len(ids) <= self._few else self._mask(tuple(ids))
        forced = []
        while ids is not None and len(ids) == 1:
            forced += ids
            ids = self.allowed([*self.written, *forced])
        self.written += forced
        return Force(tuple(forced))

    def take(self, token):
        self.written.append(token)

    def _mask(self, ids):
        if ids not in self._masks:
            allowed = torch.zeros(self._rows, dtype=torch.bool)
            allowed[list(ids)] = True
            self._masks[ids] = Mask(allowed)
        return self._masks[ids]


def script(seed, length, rows):
    """A random script: runs of forced ids, choices of few, free text."""
    source = torch.Generator().manual_seed(seed)
    sets = []
    while len(sets) < length:
        size = (1, 1, 5, rows)[int(torch.randint(0, 4, (1,), generator=source))]
        run = int(torch.randint(1, 6, (1,), generator=source))
        sets += [torch.randperm(rows, generator=source)[:size].sort().values.tolist() for _ in range(run)]
    return Script(sets[:length], rows)
