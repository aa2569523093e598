"""The band that sliding layers see: every position its neighbours within a window (spec/audio.md §2.1).

Long sequences are cut into blocks as wide as the window; a block sees itself and the blocks beside it. That is exact,
the work grows with the length and not with its square, and no mask of length x length exists (spec/perf.md §4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

See = Callable[..., Tensor]
# Up to three windows one block of everything is faster: measured on a CPU, and the blocks would compute as much.
WHOLE_WINDOWS = 3


def sliding_mask(length: int, window: int, device: torch.device | str | None) -> Tensor | None:
    """Bool [length, length], True where |i - j| <= window; None when that hides nothing."""
    if length <= window + 1:
        return None
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window  # [L, L]


@dataclass(frozen=True, eq=False)
class Band:
    """What the layers of one pass share; `sliding_band` makes it.

    Attributes:
        length: L of the sequence.
        window: how far a position sees to each side, W. Also the width of a block, unless everything is one block.
        numbers: what is added to the scores, 0 or -inf: [1, blocks, groups · W, 3 W], or [1, 1, groups · L, L]. The
            query heads of one key head stand under one another as rows, so no key is repeated.
    """

    length: int
    window: int
    numbers: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See) -> Tensor:
        """What q [B, heads, L, D] sees of k and v [B, kv, L, D] within the window, like q. `see` is `Ops.attention`."""
        batch, heads, length, width = q.shape
        seen = see(self._rows(q, k.shape[1]), self._neighbours(k), self._neighbours(v), self.numbers)
        blocks, size = self.numbers.shape[1], self._size
        seen = seen.view(batch, k.shape[1], blocks, -1, size, width).permute(
            0, 2, 4, 1, 3, 5
        )  # [B, N, W, kv, groups, D]
        out: Tensor = seen.reshape(batch, -1, heads, width)[:, :length].transpose(1, 2)
        return out

    @property
    def _size(self) -> int:
        """How many positions a block has."""
        return self.length if self.numbers.shape[1] == 1 else self.window

    def _rows(self, q: Tensor, keys: int) -> Tensor:
        """q [B, heads, L, D] -> by blocks, the heads of a key head under one another [B · kv, N, groups · W, D]."""
        blocks, size = self.numbers.shape[1], self._size
        q = _filled(q, 0, blocks * size - self.length).unflatten(2, (blocks, size))  # [B, heads, N, W, D]
        rows: Tensor = q.unflatten(1, (keys, -1)).transpose(2, 3)  # [B, kv, N, groups, W, D]
        return rows.reshape(len(q) * keys, blocks, -1, q.shape[-1])

    def _neighbours(self, x: Tensor) -> Tensor:
        """x [B, kv, L, D] -> of each block itself and its neighbours [B · kv, N, 3 W, D], views of one padded copy."""
        blocks, window = self.numbers.shape[1], self.window
        if blocks == 1:
            return x.flatten(0, 1)[:, None]
        x = _filled(x, window, window + blocks * window - self.length)  # [B, kv, (N + 2) · W, D]
        return x.unfold(2, 3 * window, window).transpose(-1, -2).flatten(0, 1)


def _filled(x: Tensor, before: int, after: int) -> Tensor:
    """x [B, heads, L, D] with zeros around it."""
    return F.pad(x, (0, 0, before, after)) if before or after else x


def count_blocks(length: int, window: int) -> int:
    """How many blocks a band is computed in; 0 where it hides nothing."""
    if length <= window + 1:
        return 0
    return 1 if length <= WHOLE_WINDOWS * window else -(-length // window)


def band_elements(length: int, window: int, groups: int) -> int:
    """How many numbers `Band.numbers` has."""
    blocks = count_blocks(length, window)
    return groups * (length**2 if blocks == 1 else blocks * 3 * window**2)


def sliding_band(length: int, window: int, groups: int, like: Tensor) -> Band | None:
    """The band of a sequence, on the device and in the dtype of `like`; None where it hides nothing.

    `groups` is the number of query heads that share a key head.
    """
    blocks = count_blocks(length, window)
    if not blocks:
        return None
    size, margin = (length, 0) if blocks == 1 else (window, window)
    start = torch.arange(blocks, device=like.device)[:, None, None] * size  # [N, 1, 1]
    query = torch.arange(size, device=like.device)[:, None] + start  # [N, W, 1]
    key = torch.arange(-margin, size + margin, device=like.device) + start  # [N, 1, 3 W]
    # A filled-in query still sees the window before it, so that its softmax has something to sum.
    hidden = ((query - key).abs() > window) | (key < 0) | (key >= length)  # [N, W, 3 W]
    numbers = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
    return Band(length, window, numbers.repeat(1, groups, 1)[None])
