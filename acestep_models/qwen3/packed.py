"""Texts of different lengths in one pass: their new tokens stand in one line, each text keeps a cache of its own.

Layers with weights then see one matrix of all tokens, and nothing is padded; only attention is done text by text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..layers import LayerCache, See
from .cache import KVCache, LayerSlot, visible


class PackedTexts(Protocol):
    """What `Qwen3.packed` needs of a cache."""

    def start(self) -> Tensor:
        """Get ready for one pass: the position of every token in the line, int64 [T]."""

    def layer(self, index: int) -> LayerCache:
        """The part of one layer."""

    def finish(self) -> None:
        """Count the tokens of the pass."""


class PackedCache:
    """`tokens[i]` new tokens for each text of `caches[i]`, in this order in the line; for one pass.

    Raises:
        ValueError: a cache without room for its tokens.
    """

    def __init__(self, caches: Sequence[KVCache], tokens: Sequence[int]) -> None:
        self._parts = tuple(zip(caches, tokens, strict=True))
        for cache, count in self._parts:
            cache.check_room(cache.batch, count)
        device = caches[0].keys.device
        self._masks = [visible(cache.length, count, device) for cache, count in self._parts]

    def start(self) -> Tensor:
        """As `PackedTexts` asks."""
        spans = [
            torch.arange(cache.length, cache.length + count, device=cache.keys.device).repeat(cache.batch)  # [B · L]
            for cache, count in self._parts
        ]
        return torch.cat(spans)

    def layer(self, index: int) -> PackedSlot:
        """As `PackedTexts` asks."""
        parts = zip(self._parts, self._masks, strict=True)
        return PackedSlot([_Span(cache.layer(index), cache.batch, count, mask) for (cache, count), mask in parts])

    def finish(self) -> None:
        """As `PackedTexts` asks."""
        for cache, count in self._parts:
            cache.advance(count)


@dataclass(frozen=True, eq=False)
class _Span:
    """Some texts of one length in one layer: where they keep their past, and how many tokens each of them gets."""

    slot: LayerSlot
    texts: int
    tokens: int
    mask: Tensor | None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See) -> Tensor:
        """All four [texts, heads or kv, tokens, D]."""
        return self.slot.attend(q, k, v, see, self.mask, self.mask is None and self.tokens > 1)


class _Part(Protocol):
    @property
    def texts(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class PackedSlot:
    """One layer of several caches, which divide the line of tokens among them."""

    parts: Sequence[_Part]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See, mask: Tensor | None, causal: bool) -> Tensor:
        """As `LayerCache` asks, for a batch of one line: q [1, heads, T, D]. Every text brings its own mask."""
        counts = [part.texts * part.tokens for part in self.parts]
        pieces = zip(self.parts, *(values[0].split(counts, dim=1) for values in (q, k, v)), strict=True)
        seen = [_join(part.attend(*(_texts(piece, part) for piece in piece_of), see)) for part, *piece_of in pieces]
        return torch.cat(seen, dim=1)[None]  # [1, heads, T, D]


def _texts(line: Tensor, part: _Part) -> Tensor:
    texts: Tensor = line.unflatten(1, (part.texts, part.tokens)).transpose(0, 1)  # [texts, heads, tokens, D]
    return texts


def _join(seen: Tensor) -> Tensor:
    line: Tensor = seen.transpose(0, 1).flatten(1, 2)  # [heads, texts · tokens, D]
    return line


class WindowCache:
    """One new token for every text, with every size fixed, so that a CUDA graph can hold the pass.

    The texts of `caches[i]` look at the first `windows[i]` positions of their buffers; a mask hides those behind
    their own position. `positions` [T] on the device says where each text stands and is moved on by `finish`; the
    lengths of the caches are the caller's to move. A window must be larger than every position it is used at.
    """

    def __init__(self, caches: Sequence[KVCache], windows: Sequence[int], positions: Tensor) -> None:
        self._caches = tuple(caches)
        self._windows = tuple(windows)
        self._positions = positions
        self._masks: list[Tensor] = []
        for cache, window in zip(caches, windows, strict=True):  # what is masked is still multiplied by 0
            cache.values[:, :, :, cache.length : window] = 0
            cache.keys[:, :, :, cache.length : window] = 0

    def start(self) -> Tensor:
        """As `PackedTexts` asks."""
        self._masks = [
            (torch.arange(window, device=at.device) <= at[:, None])[:, None, None]  # [texts, 1, 1, window]
            for window, at in zip(self._windows, self._each(), strict=True)
        ]
        return self._positions

    def layer(self, index: int) -> PackedSlot:
        """As `PackedTexts` asks."""
        parts = zip(self._caches, self._windows, self._each(), self._masks, strict=True)
        return PackedSlot(
            [_Window(cache.keys[index], cache.values[index], *fixed) for cache, *fixed in parts]  # type: ignore[arg-type]
        )

    def finish(self) -> None:
        """As `PackedTexts` asks."""
        self._positions.add_(1)

    def _each(self) -> tuple[Tensor, ...]:
        each: tuple[Tensor, ...] = self._positions.split([cache.batch for cache in self._caches])
        return each


@dataclass(frozen=True, eq=False)
class _Window:
    """Buffers [texts, kv, capacity, D] of one layer, of which `window` positions are looked at."""

    keys: Tensor
    values: Tensor
    window: int
    at: Tensor
    mask: Tensor
    tokens: int = 1

    @property
    def texts(self) -> int:
        return self.keys.shape[0]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See) -> Tensor:
        """q, k and v [texts, heads or kv, 1, D]."""
        place = self.at[:, None, None, None].expand_as(k)  # [texts, kv, 1, D]
        self.keys.scatter_(2, place, k)
        self.values.scatter_(2, place, v)
        return see(q, self.keys[:, :, : self.window], self.values[:, :, : self.window], self.mask, False)
