"""Tiles give what the whole gives, and only with the overlap that the layers ask for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.runtime import PlainRuntime
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck
from acestep_models.vae.reach import decode_overlap, encode_overlap
from acestep_models.vae.tiling import Tile, Work, decode_pieces, decode_tiled, encode_tiled, posterior_tiled, tiles

sys.path.append(str(Path(__file__).resolve().parents[1] / "layers"))

from livebytes import peak_bytes  # noqa: E402

CONFIG = OobleckConfig(
    encoder_hidden_size=4, channel_multiples=(1, 1, 2, 2, 3), decoder_channels=4, decoder_input_channels=2
)
TWO_BLOCKS = OobleckConfig(
    encoder_hidden_size=4,
    downsampling_ratios=(2, 4),
    channel_multiples=(1, 2),
    decoder_channels=3,
    decoder_input_channels=2,
)
CPU = torch.device("cpu")


def work(tile=512, runtime=None, dtype=torch.float64, **how):
    return Work(runtime or PlainRuntime(), CPU, dtype, tile, **how)


@pytest.fixture(scope="module")
def vae(perturb):
    """In float64, so that only the tiles can make a difference and not the kernels chosen for their lengths."""
    return perturb(Oobleck(CONFIG), 1).double().requires_grad_(False)


@pytest.fixture(scope="module")
def latents(rng):
    return torch.randn(2, 2, 53, generator=rng(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def wave(rng):
    return torch.rand(2, 2, 53 * 1920, generator=rng(2), dtype=torch.float64) * 2 - 1


def test_overlaps_of_the_real_vae():
    assert (decode_overlap(OobleckConfig()), encode_overlap(OobleckConfig())) == (9, 7)


@pytest.mark.parametrize("config", [CONFIG, TWO_BLOCKS], ids=["real-ratios", "two-blocks"])
def test_overlaps_are_what_the_layers_reach_and_no_more(config, perturb, rng):
    """Change one frame and see which frames of the other side feel it; same shapes, so the rest stays bit-equal."""
    vae = perturb(Oobleck(config), 1).double().requires_grad_(False)
    middle, hop = 30, config.hop
    latents = torch.randn(1, 2, 61, generator=rng(1), dtype=torch.float64)
    sound = torch.rand(1, 2, 61 * hop, generator=rng(2), dtype=torch.float64)
    louder, latents_2 = sound.clone(), latents.clone()
    louder[:, :, middle * hop : (middle + 1) * hop] += 0.5
    latents_2[:, :, middle] += 1
    decoded = (vae.decode(latents) != vae.decode(latents_2)).any(dim=1)[0].unflatten(0, (-1, hop)).any(dim=1)
    encoded = (vae.encode_mean(sound) != vae.encode_mean(louder)).any(dim=1)[0]
    for felt, overlap in ((decoded, decode_overlap(config)), (encoded, encode_overlap(config))):
        frames = felt.nonzero()[:, 0]
        assert max(middle - int(frames.min()), int(frames.max()) - middle) == overlap


@pytest.mark.parametrize("tile", [20, 31, 52, 53, 512])
def test_tiled_decode_is_the_whole(vae, latents, relative_error, tile):
    runtime = PlainRuntime()
    got = decode_tiled(vae, latents, work(tile, runtime))
    assert got.dtype == torch.float32 and got.shape == (2, 2, 53 * 1920)
    assert relative_error(got, vae.decode(latents)) < 1e-6
    done, total = runtime.last_progress
    assert done == total == 2 * len(tiles(53, tile, 9))


@pytest.mark.parametrize("rest", [0, 1919])
@pytest.mark.parametrize("tile", [16, 52, 512])
def test_tiled_encode_is_the_whole(vae, wave, rng, relative_error, tile, rest):
    wave = torch.cat([wave, torch.rand(2, 2, rest, generator=rng(5), dtype=torch.float64)], dim=-1)
    got = encode_tiled(vae, wave, runtime=PlainRuntime(), device=CPU, dtype=torch.float64, tile=tile)
    assert got.dtype == torch.float32 and got.shape == (2, 2, 53)
    assert relative_error(got, vae.encode_mean(wave)) < 1e-6
    both = posterior_tiled(vae, wave, work(tile))
    assert torch.equal(both[0], got)
    assert relative_error(both[1], vae.posterior(wave)[1]) < 1e-6


def test_unwanted_tiles_are_left_out_and_the_others_are_the_same(vae, latents):
    """Tiles of 20 that keep 2 frames more each: 0 to 11, 11 to 13, ... 43 to 53."""
    whole = decode_tiled(vae, latents, work(20)).unflatten(-1, (53, 1920))
    for wanted, frames in (
        ([(0, 1)], {*range(11)}),
        ([(12, 14), (52, 53)], {11, 12, 13, 14, *range(43, 53)}),
        ([], {}),
    ):
        found = decode_tiled(vae, latents, work(20), wanted).unflatten(-1, (53, 1920))
        for frame in range(53):
            assert torch.equal(found[..., frame, :], whole[..., frame, :] * (frame in frames)), (wanted, frame)


def test_without_overlap_the_joins_are_heard(vae, latents, wave, relative_error):
    decoded = decode_tiled(vae, latents, work(20, overlap=0))
    encoded = posterior_tiled(vae, wave, work(20, overlap=0))[0]
    assert relative_error(decoded, vae.decode(latents)) > 1e-2
    assert relative_error(encoded, vae.encode_mean(wave)) > 1e-2


@pytest.mark.parametrize(("frames", "tile", "overlap"), [(1300, 512, 9), (513, 512, 9), (100, 19, 9), (60, 20, 0)])
def test_tiles_have_one_shape_and_keep_every_frame_once(frames, tile, overlap):
    parts = tiles(frames, tile, overlap)
    assert {part.end - part.start for part in parts} == {tile}
    assert [frame for part in parts for frame in range(part.keep, part.keep_end)] == list(range(frames))
    for part in parts:
        assert part.start == 0 or part.keep - part.start >= overlap
        assert part.end == frames or part.end - part.keep_end >= overlap


def test_tiles_of_a_long_song_are_these():
    assert tiles(1300, 512, 9) == [Tile(0, 512, 0, 503), Tile(494, 1006, 503, 997), Tile(788, 1300, 997, 1300)]
    assert tiles(512, 512, 9) == [Tile(0, 512, 0, 512)]


def test_a_tile_of_nothing_but_overlap_is_refused(vae, latents):
    with pytest.raises(ValueError, match="longer than its two overlaps, got 18 and 2 x 9 frames"):
        decode_tiled(vae, latents, work(18))


def test_lower_precision_comes_back_as_fp32(perturb, latents, relative_error):
    vae = perturb(Oobleck(CONFIG), 1, scale=0.02).requires_grad_(False)
    expected = vae.decode(latents.float())
    exact = decode_tiled(vae, latents, work(31, dtype=torch.float32))
    assert relative_error(exact, expected) < 1e-5
    got = decode_tiled(vae.bfloat16(), latents, work(31, dtype=torch.bfloat16))
    assert got.dtype == torch.float32
    assert relative_error(got, expected) < 0.05


def test_cancel_is_heard_before_a_tile(vae, latents):
    runtime = PlainRuntime()
    runtime.cancel = True
    with pytest.raises(Cancelled):
        decode_tiled(vae, latents, work(runtime=runtime))


def test_what_is_not_finite_is_named(vae, latents, wave):
    with pytest.raises(ACEStepError, match="VAE decode"):
        decode_tiled(vae, latents * float("nan"), work())
    with pytest.raises(ACEStepError, match="VAE encode"):
        posterior_tiled(vae, wave * float("inf"), work())


@pytest.fixture(scope="module")
def quick(perturb):
    """A VAE of 8 samples a frame that sees 19 and 17 frames around: tiles cost little here."""
    return perturb(Oobleck(TWO_BLOCKS), 1).double().requires_grad_(False)


@pytest.fixture(scope="module")
def songs(rng):
    """Of 88 frames: five tiles of 48 in decoding, five of 45 in encoding."""
    return torch.randn(2, 2, 88, generator=rng(1), dtype=torch.float64)


@pytest.fixture
def batches(monkeypatch):
    """How many tiles go through the VAE at once, call by call."""
    seen = []
    for name in ("decode", "posterior"):
        plain = getattr(Oobleck, name)
        monkeypatch.setattr(Oobleck, name, lambda self, x, plain=plain: seen.append(len(x)) or plain(self, x))
    return seen


@pytest.mark.parametrize(
    ("run", "tile", "rest", "calls"),
    [(decode_tiled, 48, 0, [4, 4, 2]), (posterior_tiled, 45, 0, [4, 4, 2]), (posterior_tiled, 45, 3, [4, 1, 4, 1])],
    ids=["decode", "encode", "encode-rest"],
)
def test_several_tiles_at_once_give_what_each_alone_gives(
    quick, songs, rng, batches, relative_error, run, tile, rest, calls
):
    """Of two songs; the last tile of a sound that is longer than its frames goes by itself."""
    given = songs if run is decode_tiled else torch.rand(2, 2, 88 * 8 + rest, generator=rng(2), dtype=torch.float64)
    one, several = PlainRuntime(), PlainRuntime()
    alone = run(quick, given, work(tile, one))
    assert batches == [1] * 10
    batches.clear()
    together = run(quick, given, work(tile, several, at_once=4))
    assert batches == calls
    for got, expected in zip(together, alone, strict=True):
        assert relative_error(got, expected) < 1e-6
    assert one.last_progress == several.last_progress == (10, 10)


def test_at_once_goes_together_with_what_is_wanted(quick, songs, batches):
    wanted = [(30, 32), (87, 88)]
    expected = decode_tiled(quick, songs, work(48), wanted)
    assert batches == [1] * 4
    found = decode_tiled(quick, songs, work(48, at_once=3), wanted)
    assert batches == [1] * 4 + [3, 1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 3])
def test_pieces_in_order_are_the_whole(quick, songs, at_once):
    pieces = list(decode_pieces(quick, songs, work(48, at_once=at_once)))
    assert [tuple(piece[:3]) for piece in pieces] == [
        (item, start, end) for item in range(2) for start, end in ((0, 29), (29, 39), (39, 49), (49, 59), (59, 88))
    ]
    joined = [torch.cat([piece.sound for piece in pieces if piece.item == item], dim=-1) for item in range(2)]
    assert torch.equal(torch.stack(joined).float(), decode_tiled(quick, songs, work(48, at_once=at_once)))


def test_a_piece_is_made_when_it_is_asked_for(quick, songs, batches):
    runtime = PlainRuntime()
    pieces = decode_pieces(quick, songs, work(48, runtime))
    assert not batches
    next(pieces), next(pieces)
    assert batches == [1, 1]
    assert runtime.last_progress == (1, 10)  # the second is told when the caller is done with it
    runtime.cancel = True
    with pytest.raises(Cancelled):
        next(pieces)


def test_no_more_than_one_tile_is_alive_however_long_the_song(quick, rng):
    def peak(frames):
        latents = torch.randn(1, 2, frames, generator=rng(1), dtype=torch.float64)
        return peak_bytes(lambda: [None for _ in map(len, decode_pieces(quick, latents, work(48)))])

    assert peak(48) == peak(138)  # one tile, and ten of them
