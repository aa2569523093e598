"""A recorded step where there are no CUDA graphs: what was computed, on the very memory, and nothing of Python."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Tape(TorchDispatchMode):
    """`with tape: step()` writes down every operation with its tensors; `replay` does these again.

    As with a CUDA graph, whatever the step read of Python is as it was, and whatever it read that lies elsewhere now
    is read where it lay.
    """

    def __init__(self):
        super().__init__()
        self._done = []

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        named = named or {}
        made = operation(*given, **named)
        self._done.append((operation, given, named, made))
        return made

    def replay(self):
        for operation, given, named, made in self._done:
            again = operation(*given, **named)
            for old, new in zip(_tensors(made), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


def _tensors(made):
    several = made if isinstance(made, (list, tuple)) else (made,)
    return [one for one in several if isinstance(one, torch.Tensor)]


def taped(step):
    """A recording of `step`, which is carried out once meanwhile."""
    tape = Tape()
    with tape:
        step()
    return tape
