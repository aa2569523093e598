"""Tiles are as long as the room allows, all alike, and the sound does not depend on them."""

from __future__ import annotations

import pytest
import torch

from acestep_models.ops import META
from acestep_models.pipelines.decode import decode, decode_stream
from acestep_models.runtime import Handle, PartRuntime, PlainRuntime
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck
from acestep_models.vae.room import (
    DECODING,
    ENCODING,
    MODEST,
    ROOM,
    SMALLEST,
    even,
    least_bytes,
    place,
    prepare,
    tiles_at_once,
)
from acestep_models.vae.tiling import TILE, decode_bytes, encode_bytes, tiles

CONFIG = OobleckConfig()
FRAMES = 15_000  # ten minutes


class Card(PlainRuntime):
    """So many bytes are free before the VAE is placed, and so many after it; `reserved` is what was asked for."""

    def __init__(self, *free, device="cpu"):
        super().__init__(device)
        self.free, self.reserved = list(free), None

    def free_bytes(self, handle):
        return self.free.pop(0)

    def place(self, handle, reserve_bytes=0):
        self.reserved = reserve_bytes
        return handle.module


@pytest.fixture(scope="module")
def vae():
    return Handle(Oobleck(CONFIG, device=META), torch.bfloat16)


@pytest.fixture
def small(perturb):
    config = OobleckConfig(channel_multiples=(1, 1, 1, 1, 1), decoder_channels=2)
    return Handle(perturb(Oobleck(config), 1, scale=0.01).requires_grad_(False), torch.float32)


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


def test_the_sound_is_the_same_with_little_room(small, rng, relative_error):
    handle = small
    latents = torch.randn(1, 64, 150, generator=rng(3))
    wanted = decode(PlainRuntime(), handle, latents)
    tight = Card(0, 0)
    assert relative_error(decode(PartRuntime(tight, 0, 1), handle, latents), wanted) < 1e-5
    assert tight.last_progress == (3, 3)


@pytest.mark.parametrize("side", [DECODING, ENCODING])
def test_only_a_big_card_takes_several_tiles_at_once(vae, side):
    """An eighth of what is free, in tiles of 640 MiB at most."""
    for free, at_once in ((3 << 30, 1), (6 << 30, 1), (24 << 30, 4), (139 << 30, 4), (11 << 30, 2)):
        card = Card(free, free, free, device="cuda")
        network, work = prepare(card, vae, side, FRAMES)
        assert network is vae.module and work.runtime is card
        assert (work.device, work.dtype) == (torch.device("cuda"), vae.dtype)
        assert work.at_once == at_once, free
        assert work.at_once * side.need(CONFIG, work.tile, vae.dtype) <= max(free // 8, ROOM)
    for device in ("cpu", "mps", "meta"):
        assert tiles_at_once(PlainRuntime(device), vae, side, 300) == 1


def test_the_least_is_what_a_crowded_card_is_asked_for(vae):
    for frames in (30, 150, FRAMES):
        card = Card(0, 0)
        place(card, vae, DECODING, frames)
        assert card.reserved == least_bytes(vae, DECODING, frames)
        assert least_bytes(vae, DECODING, frames) <= decode_bytes(CONFIG, min(MODEST, frames), vae.dtype)


def test_a_stream_is_the_song_and_leaves_the_callers_mode_alone(small, rng):
    latents, tight = torch.randn(2, 64, 150, generator=rng(3)), Card(0, 0)
    pieces, modes, seen = decode_stream(tight, small, latents), [], []
    for piece in pieces:
        modes.append(torch.is_inference_mode_enabled())
        seen.append(piece)
    assert modes == [False] * 6 and all(piece.sound.is_inference() for piece in seen)
    whole = decode(Card(0, 0), small, latents)
    for item in range(2):
        mine = [piece for piece in seen if piece.item == item]
        assert [piece.start for piece in mine] == [0, *(piece.end for piece in mine[:-1])] and mine[-1].end == 150
        assert torch.equal(torch.cat([piece.sound for piece in mine], dim=-1), whole[item])
    with pytest.raises(ValueError, match=r"latents: expected \[songs, 64, frames\], got \[1, 3, 8\]"):
        next(decode_stream(PlainRuntime(), small, torch.zeros(1, 3, 8)))


def test_half_precision_stays_this_close(small, rng):
    """bf16: RMS of the error against fp32 by RMS of the result, out of random weights; 36 snakes in a row each way."""
    latents = torch.randn(1, 64, 40, generator=rng(3))
    wave = torch.rand(1, 2, 4 * 1920, generator=rng(4)) - 0.5

    def both(network, dtype):
        return network.decode(latents.to(dtype)).float(), network.encode_mean(wave.to(dtype)).float()

    exact = both(small.module, torch.float32)
    for found, true in zip(both(small.module.bfloat16(), torch.bfloat16), exact, strict=True):
        assert 1e-3 < float((found - true).norm() / true.norm()) < 0.02
