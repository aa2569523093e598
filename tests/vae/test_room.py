"""Tiles are as long as the room allows, all alike, and the sound does not depend on them."""

from __future__ import annotations

import pytest
import torch

from acestep_models.ops import META
from acestep_models.pipelines.decode import decode
from acestep_models.runtime import Handle, PartRuntime, PlainRuntime
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck
from acestep_models.vae.room import DECODING, ENCODING, MODEST, ROOM, SMALLEST, even, place
from acestep_models.vae.tiling import TILE, decode_bytes, encode_bytes, tiles

CONFIG = OobleckConfig()
FRAMES = 15_000  # ten minutes


class Card(PlainRuntime):
    """So many bytes are free before the VAE is placed, and so many after it; `reserved` is what was asked for."""

    def __init__(self, *free):
        super().__init__()
        self.free, self.reserved = list(free), None

    def free_bytes(self, handle):
        return self.free.pop(0)

    def place(self, handle, reserve_bytes=0):
        self.reserved = reserve_bytes
        return handle.module


@pytest.fixture(scope="module")
def vae():
    return Handle(Oobleck(CONFIG, device=META), torch.bfloat16)


@pytest.mark.parametrize("side", [DECODING, ENCODING])
@pytest.mark.parametrize("frames", [25, 700, FRAMES])
def test_with_room_for_all_tiles_stay_below_the_limit_of_a_small_card(vae, side, frames):
    card = Card(1 << 50, 1 << 50)
    network, tile = place(card, vae, side, frames)
    assert network is vae.module
    assert card.reserved == side.need(CONFIG, tile, vae.dtype) <= ROOM
    assert tile == frames if frames < 300 else 300 < tile <= TILE


def test_ten_minutes_decode_within_weights_and_a_gigabyte(vae):
    """Issue 9: the tile in both precisions, and what the song itself takes is in the main memory."""
    for dtype in (torch.bfloat16, torch.float32):
        _, tile = place(Card(1 << 50, 1 << 50), Handle(vae.module, dtype), DECODING, FRAMES)
        assert decode_bytes(CONFIG, tile, dtype) + tile * 64 * 4 < 1e9
        assert tile >= 200


def test_little_room_makes_tiles_shorter_step_by_step(vae):
    one = decode_bytes(CONFIG, 1, vae.dtype)
    rows = {  # free before, free after, longest tile, tile that is reserved for
        (1 << 50, 1 << 50): (ROOM // one, ROOM // one),
        (200 * one, 200 * one): (200, 200),
        (10 * one, 1 << 50): (MODEST, MODEST),  # others leave for this one
        (10 * one, 100 * one): (100, MODEST),
        (0, 0): (SMALLEST, MODEST),
    }
    for free, (longest, reserved) in rows.items():
        card = Card(*free)
        _, tile = place(card, vae, DECODING, FRAMES)
        assert tile == even(FRAMES, longest, 9)
        assert card.reserved == one * even(FRAMES, reserved, 9)


def test_a_limit_is_kept_and_none_takes_the_whole(vae):
    assert place(Card(1 << 50, 1 << 50), vae, ENCODING, FRAMES, 128)[1] == even(FRAMES, 128, 7) <= 128
    card = Card()
    assert place(card, vae, ENCODING, 3000, None)[1] == 3000
    assert card.reserved == encode_bytes(CONFIG, 3000, vae.dtype)


@pytest.mark.parametrize("frames", [64, 65, 513, 1300, 6000, 15_000])
@pytest.mark.parametrize("tile", [64, 200, 512])
def test_even_tiles_are_as_few_and_no_longer(frames, tile):
    short = even(frames, tile, 9)
    assert short <= tile
    parts = tiles(frames, short, 9)
    assert len(parts) == len(tiles(frames, tile, 9))
    assert len(parts) == 1 or len(tiles(frames, short - 1, 9)) > len(parts)


def test_the_sound_is_the_same_with_little_room(perturb, rng, relative_error):
    small = OobleckConfig(channel_multiples=(1, 1, 1, 1, 1), decoder_channels=2)
    handle = Handle(perturb(Oobleck(small), 1, scale=0.05).requires_grad_(False), torch.float32)
    latents = torch.randn(1, 64, 150, generator=rng(3))
    wanted = decode(PlainRuntime(), handle, latents)
    tight = Card(0, 0)
    assert relative_error(decode(PartRuntime(tight, 0, 1), handle, latents), wanted) < 1e-5
    assert tight.last_progress == (3, 3)
