"""How long the tiles of the VAE are, and how many go in at once: what the room on its device holds, all alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..runtime import Handle, Runtime
from .config import OobleckConfig
from .oobleck import Oobleck
from .reach import decode_overlap, encode_overlap
from .tiling import TILE, Work, decode_bytes, encode_bytes

ROOM = 640 << 20  # bytes: kernels need something beside it, and all of it shall stay below 0.7 GiB
MODEST = 128  # frames: for tiles up to this other networks leave the card, for longer ones they need not
SMALLEST = 64  # frames: below it, more than a third of the work would be overlap
CARDS = ("cuda", "xpu")
MOST_AT_ONCE, SHARE = 4, 8  # tiles, in an eighth of what is free: only a big card takes more than one


class Side(NamedTuple):
    """What a tile of some frames needs in bytes, and how many frames two neighbours share."""

    need: Callable[[OobleckConfig, int, torch.dtype], int]
    overlap: Callable[[OobleckConfig], int]


DECODING, ENCODING = Side(decode_bytes, decode_overlap), Side(encode_bytes, encode_overlap)


def prepare(
    runtime: Runtime, vae: Handle[Oobleck], side: Side, frames: int, limit: int | None = TILE
) -> tuple[Oobleck, Work]:
    """The VAE on its device, and how it goes through songs of `frames` frames; see `place`."""
    network, tile = place(runtime, vae, side, frames, limit)
    at_once = tiles_at_once(runtime, vae, side, tile)
    return network, Work(runtime, runtime.device(vae), vae.dtype, tile, at_once)


def tiles_at_once(runtime: Runtime, vae: Handle[Oobleck], side: Side, tile: int) -> int:
    """How many tiles of `tile` frames a placed VAE takes together.

    One on anything but a card: a CPU's cache holds no more, and what shares its memory with it wants it for itself.
    """
    if runtime.device(vae).type not in CARDS:
        return 1
    spare = runtime.free_bytes(vae) // SHARE
    return _between(1, spare // side.need(vae.module.config, tile, vae.dtype), MOST_AT_ONCE)


def least_bytes(vae: Handle[Oobleck], side: Side, frames: int) -> int:
    """What `place` asks for beside the weights where least is free, for a song of `frames`."""
    config = vae.module.config
    return side.need(config, even(frames, MODEST, side.overlap(config)), vae.dtype)


def place(
    runtime: Runtime, vae: Handle[Oobleck], side: Side, frames: int, limit: int | None = TILE
) -> tuple[Oobleck, int]:
    """The VAE on its device, and how many frames its tiles have for a song of `frames`.

    Tiles have at most `limit` frames and need at most `ROOM` bytes; where less is free they are shorter, down to
    `MODEST`, before anything else leaves the device, and down to `SMALLEST` where that did not help. `limit` None takes
    the song whole, whatever it needs.
    """
    config, dtype = vae.module.config, vae.dtype
    if limit is None:
        return runtime.place(vae, side.need(config, frames, dtype)), frames
    one, overlap = side.need(config, 1, dtype), side.overlap(config)
    longest = max(2 * overlap + 1, min(limit, max(SMALLEST, ROOM // one)))
    asked = _between(MODEST, (runtime.free_bytes(vae) - _missing(runtime, vae)) // one, longest)
    network = runtime.place(vae, one * even(frames, asked, overlap))
    tile = _between(SMALLEST, runtime.free_bytes(vae) // one, asked)
    return network, even(frames, tile, overlap)


def even(frames: int, tile: int, overlap: int) -> int:
    """Frames of the shortest tiles that are as few as those of `tile` frames, so that none repeats its neighbour."""
    if frames <= tile:
        return frames
    own = frames - 2 * overlap
    count = -(-own // (tile - 2 * overlap))
    return -(-own // count) + 2 * overlap


def _between(least: int, wanted: int, most: int) -> int:
    return min(most, max(least, wanted))


def _missing(runtime: Runtime, vae: Handle[Oobleck]) -> int:
    """Bytes of its weights that do not lie on its device yet."""
    size = sum(weight.numel() * weight.element_size() for weight in vae.module.parameters())
    return round((1.0 - runtime.loaded_share(vae)) * size)
