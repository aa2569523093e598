"""Steps of one new token a text in which every size is fixed, so that they can be recorded and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..graphs import Graphs, Recorder
from ..qwen3.cache import KVCache
from ..qwen3.packed import PackedTexts, WindowCache

WINDOW = 512  # a step looks at a multiple of so many positions, or at the whole buffer


class StaticSteps:
    """The steps of one run. They are recorded where `graphs` can, else done over the same fixed sizes."""

    def __init__(self, graphs: Graphs) -> None:
        self._recorder = Recorder(graphs)
        self._kind: tuple[int, ...] = ()
        self._lengths: list[int] = []
        self._positions = torch.empty(0)
        self._texts: WindowCache | None = None

    def run(self, caches: Sequence[KVCache], step: Callable[[PackedTexts], None]) -> None:
        """One new token for every text of `caches`.

        `step` does the pass. As long as the caches and their buffers are the same ones, it must work on the same
        tensors and find in them all that changes.
        """
        texts = self._window(caches)
        self._recorder.run(self._kind, lambda: step(texts))
        for cache in caches:
            cache.advance(1)
        self._lengths = [cache.length for cache in caches]

    def _window(self, caches: Sequence[KVCache]) -> WindowCache:
        windows = [_window(cache) for cache in caches]
        kind = (*windows, *(cache.keys.data_ptr() for cache in caches))
        lengths = [cache.length for cache in caches]
        if self._texts is None or kind != self._kind:
            self._positions = _positions(caches)
            self._texts, self._kind = WindowCache(caches, windows, self._positions), kind
        elif lengths != self._lengths:  # someone else has written in between
            self._positions.copy_(_positions(caches))
        return self._texts


def _positions(caches: Sequence[KVCache]) -> Tensor:
    """Where the next token of every text stands, int64 [T]."""
    lengths = [cache.length for cache in caches for _ in range(cache.batch)]
    return torch.tensor(lengths, device=caches[0].keys.device)


def _window(cache: KVCache) -> int:
    """The positions to look at: those filled and the new one, rounded up as far as there is room."""
    cache.check_room(cache.batch, 1)
    return min(-(-(cache.length + 1) // WINDOW) * WINDOW, cache.capacity)
