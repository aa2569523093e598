"""The blocks in which GGUF files keep matrices: a few bits a number, with scales for 32 or 256 of them.

The layouts are those of ggml's `ggml-common.h`; the order of operations is that of `gguf.quants.dequantize`, so what
comes out is the same in float32, bit for bit. Rows are made of whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers that are float32 at once: what a CPU's cache holds, and what a card has room for beside a song.
SLICE_CPU, SLICE_CARD = 1 << 18, 1 << 23
SMALL, LARGE = 32, 256  # numbers in a block of the plain kinds, and of the K kinds
LOW = 0x0F


@dataclass(frozen=True)
class Block:
    """One kind of block: `numbers` in `bytes`; `decode` makes uint8 [N, bytes] into float32 [N, numbers]."""

    numbers: int
    bytes: int
    decode: Callable[[Tensor], Tensor]

    def row_bytes(self, width: int) -> int:
        """What a row of `width` numbers takes."""
        return width // self.numbers * self.bytes


def unblock(stored: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    """stored uint8 [rows, row bytes] -> the numbers [rows, width] in `dtype`, on the same device.

    A slice of rows is float32 at a time, so the whole matrix never is.
    """
    rows, width = stored.shape[0], stored.shape[1] // block.bytes * block.numbers
    step = max(1, (SLICE_CPU if stored.device.type == "cpu" else SLICE_CARD) // width)
    out = torch.empty(rows, width, dtype=dtype, device=stored.device)
    for start in range(0, rows, step):
        part = stored[start : start + step]
        out[start : start + step] = block.decode(part.reshape(-1, block.bytes)).view(len(part), width)
    return out


def _half(raw: Tensor) -> Tensor:
    """raw uint8 [N, 2] -> float32 [N, 1]."""
    return raw.contiguous().view(torch.float16).float()


def _nibbles(raw: Tensor) -> Tensor:
    """raw uint8 [..., n] -> [..., 2 n]: all the low halves, then all the high ones."""
    return torch.cat((raw & LOW, raw >> 4), dim=-1)


def _bits(raw: Tensor, count: int, width: int = 1) -> Tensor:
    """raw uint8 [...] -> [..., count, 1 at its place]: fields of `width` bits, the lowest first."""
    fields = [(raw >> (width * index)) & ((1 << width) - 1) for index in range(count)]
    return torch.stack(fields, dim=-2)  # [..., count, n]


def _q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float() * _half(raw[:, :2])


def _q4_0(raw: Tensor) -> Tensor:
    return (_nibbles(raw[:, 2:]).float() - 8) * _half(raw[:, :2])


def _q4_1(raw: Tensor) -> Tensor:
    return _half(raw[:, :2]) * _nibbles(raw[:, 4:]).float() + _half(raw[:, 2:4])


def _fifth(raw: Tensor) -> Tensor:
    """raw uint8 [N, 4], a bit for each number -> [N, 32], 16 where it is set."""
    return _bits(raw, 8).transpose(-1, -2).reshape(-1, SMALL) << 4


def _q5_0(raw: Tensor) -> Tensor:
    numbers = _nibbles(raw[:, 6:]) | _fifth(raw[:, 2:6])
    return _half(raw[:, :2]) * (numbers.float() - 16)


def _q5_1(raw: Tensor) -> Tensor:
    numbers = _nibbles(raw[:, 8:]) | _fifth(raw[:, 4:8])
    return _half(raw[:, :2]) * numbers.float() + _half(raw[:, 2:4])


def _scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The twelve bytes of Q4_K and Q5_K [N, 12] -> eight scales and eight offsets of six bits, [N, 8] each.

    The first four of either have a byte each; the last four lie in nibbles, their upper bits above the first four.
    """
    first, second, mixed = raw.split(4, dim=1)  # [N, 4] each
    scales = torch.cat((first & 0x3F, (mixed & LOW) | ((first >> 2) & 0x30)), dim=1)
    offsets = torch.cat((second & 0x3F, (mixed >> 4) | ((second >> 2) & 0x30)), dim=1)
    return scales.float(), offsets.float()


def _scaled(raw: Tensor, numbers: Tensor) -> Tensor:
    """numbers [N, 8, 32] of Q4_K or Q5_K, with the scales at the head of raw -> [N, 256]."""
    scales, offsets = _scales(raw[:, 4:16])
    scale, offset = _half(raw[:, :2]) * scales, _half(raw[:, 2:4]) * offsets  # [N, 8]
    return (scale[..., None] * numbers.float() - offset[..., None]).view(-1, LARGE)


def _groups(raw: Tensor) -> Tensor:
    """raw uint8 [N, 128] -> nibbles [N, 8, 32]: of each 32 bytes the low halves, then the high ones."""
    return _nibbles(raw.reshape(-1, 4, 32)).view(-1, 8, 32)


def _q4_k(raw: Tensor) -> Tensor:
    return _scaled(raw, _groups(raw[:, 16:]))


def _q5_k(raw: Tensor) -> Tensor:
    return _scaled(raw, _groups(raw[:, 48:]) | (_bits(raw[:, 16:48], 8) << 4))


def _q6_k(raw: Tensor) -> Tensor:
    low = _nibbles(raw[:, :128].reshape(-1, 2, 64))  # [N, 2, 128]
    high = _bits(raw[:, 128:192].reshape(-1, 2, 32), 4, 2).reshape(-1, 2, 128)
    numbers = (low | (high << 4)).float() - 32
    scale = _half(raw[:, 208:]) * raw[:, 192:208].view(torch.int8).float()  # [N, 16]
    return (scale[..., None] * numbers.view(-1, 16, 16)).view(-1, LARGE)


# By the names that ggml has for them.
BLOCKS: dict[str, Block] = {
    "Q4_0": Block(SMALL, 18, _q4_0),
    "Q4_1": Block(SMALL, 20, _q4_1),
    "Q5_0": Block(SMALL, 22, _q5_0),
    "Q5_1": Block(SMALL, 24, _q5_1),
    "Q8_0": Block(SMALL, 34, _q8_0),
    "Q4_K": Block(LARGE, 144, _q4_k),
    "Q5_K": Block(LARGE, 176, _q5_k),
    "Q6_K": Block(LARGE, 210, _q6_k),
}
