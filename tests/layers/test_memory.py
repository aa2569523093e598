"""The memory estimates of the networks against what really lives at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep_models.dit.codes import AudioDetokenizer, AudioTokenizer
from acestep_models.dit.condition import ConditionEncoder
from acestep_models.dit.config import XL, DiTConfig, activation_bytes, codes_bytes, condition_bytes
from acestep_models.dit.transformer import DiT
from acestep_models.loading.blocks import BLOCKS
from acestep_models.loading.packed import PackedLinear, Packing, pack_layers, packed_linear, unpacking_bytes
from acestep_models.ops import META
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck
from acestep_models.vae.tiling import TILE, decode_bytes, encode_bytes

sys.path.append(str(Path(__file__).resolve().parent))

from livebytes import FUSED, JOINED, peak_bytes  # noqa: E402

TWO_B = DiTConfig()


@pytest.mark.parametrize(
    ("config", "batch", "frames", "tokens"),
    [(TWO_B, 1, 6000, 400), (TWO_B, 2, 250, 2000), (XL, 2, 15_000, 400), (XL, 8, 250, 100)],
    ids=["2b-240s", "2b-10s", "xl-600s", "xl-10s"],
)
@pytest.mark.parametrize(
    ("ops", "dtype"),
    [(FUSED, torch.float32), (JOINED, torch.bfloat16)],
    ids=["apart-fp32", "joined-bf16"],
)
def test_decoder_estimate_covers_the_true_peak(config, batch, frames, tokens, dtype, ops):
    """At real sizes and with all layers, on the meta device, where tensors have a size and no content."""
    net = DiT(config, ops, META, dtype)

    def empty(*shape):
        return torch.empty(*shape, device=META, dtype=dtype)

    given = empty(batch, frames, 64), empty(batch, frames, 128), empty(batch, tokens, config.encoder_hidden_size)

    def step(told, kept):
        """A step of a run that keeps two sets of keys and values."""
        return net(given[0], given[1], told, empty(batch)), kept

    true = peak_bytes(lambda: step(net.tell(given[2], frames), net.tell(given[2], frames)))
    assert true <= activation_bytes(config, batch, frames, tokens, dtype) <= 2.5 * true


def test_what_is_told_holds_no_more_than_keys_and_values():
    """Both come of one product, of which nothing else may stay."""
    told = DiT(replace(TWO_B, num_hidden_layers=1), JOINED, META).tell(torch.empty(2, 30, 2048, device=META), 50)
    for part in told.keys_values[0]:
        assert part.untyped_storage().nbytes() == part.nbytes == 2 * 30 * 1024 * 4


@pytest.mark.parametrize("frames", [250, 6000])
@pytest.mark.parametrize("kind", [*BLOCKS, "int8"])
def test_decoder_estimate_with_packed_matrices_covers_the_true_peak(kind, frames):
    """As on a card: the slices that are multiplied out at once are those of meta, too."""
    config, bf16 = replace(TWO_B, num_hidden_layers=1), torch.bfloat16
    net = DiT(config, FUSED, META, bf16)
    packing = Packing(PackedLinear, bf16, kind == "int8")
    pack_layers(net, "decoder", packing, {} if kind == "int8" else {name: kind for name, _ in net.named_modules()})
    given = [torch.empty(1, *shape, device=META, dtype=bf16) for shape in ((frames, 64), (frames, 128), (200, 2048))]
    time = torch.empty(1, device=META, dtype=bf16)
    true = peak_bytes(lambda: net(given[0], given[1], net.tell(given[2], frames), time))
    alone = activation_bytes(config, 1, frames, 200, bf16)
    assert true <= alone + unpacking_bytes(net, bf16) <= 2.5 * true
    assert frames > 250 or true > alone, "nothing to add"


def test_only_packed_matrices_need_room_to_unpack():
    net = DiT(replace(TWO_B, num_hidden_layers=1), FUSED, META)
    assert unpacking_bytes(net, torch.bfloat16) == 0
    pack_layers(net, "decoder", Packing(PackedLinear, torch.bfloat16))
    assert unpacking_bytes(net, torch.bfloat16) == 2048 * 6144 * 2


def test_what_comes_out_of_eight_bits_is_there_once():
    x, weight, scale = (
        torch.empty(500, 64, device=META),
        torch.empty(256, 64, device=META),
        torch.empty(256, device=META),
    )
    true = peak_bytes(lambda: packed_linear(x, weight.to(torch.int8), scale))
    assert true < 4 * (500 * 256 + 256 * 64) + 256 * 64 + 4096


def test_decoder_estimate_covers_a_real_run():
    """The same with torch's own attention and real numbers."""
    config = DiTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        intermediate_size=256,
        encoder_hidden_size=128,
        fsq_dim=128,
        sliding_window=4,
    )
    net = DiT(config)
    given = torch.randn(2, 400, 64), torch.randn(2, 400, 128), torch.randn(2, 30, 128), torch.rand(2)
    true = peak_bytes(lambda: net(given[0], given[1], net.tell(given[2], 400), given[3]))
    assert true <= activation_bytes(config, 2, 400, 30, torch.float32) <= 4 * true


@pytest.mark.parametrize("ops", [FUSED, JOINED], ids=["apart", "joined"])
@pytest.mark.parametrize(("lyrics", "references"), [(2048, 1), (20, 3)])
def test_condition_estimate_covers_the_true_peak(lyrics, references, ops):
    config = replace(XL, num_lyric_encoder_hidden_layers=2, num_timbre_encoder_hidden_layers=2)
    net = ConditionEncoder(config, ops, META)
    given = torch.empty(1, 200, 1024), torch.empty(1, lyrics, 1024), torch.empty(references, 750, 64)
    true = peak_bytes(lambda: net(*(value.to(META) for value in given)))
    assert true <= condition_bytes(config, lyrics, references, torch.float32) <= 4 * true


@pytest.mark.parametrize("ops", [FUSED, JOINED], ids=["apart", "joined"])
def test_codes_estimate_covers_the_true_peak(ops):
    tokenizer, detokenizer = AudioTokenizer(XL, ops, META), AudioDetokenizer(XL, ops, META)
    latents, vectors = torch.empty(2, 1500, 64, device=META), torch.empty(2, 300, 2048, device=META)
    estimate = codes_bytes(XL, 2, 1500, torch.float32)
    for true in (peak_bytes(lambda: tokenizer(latents, latents)), peak_bytes(lambda: detokenizer(vectors))):
        assert true <= estimate <= 4 * true


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_vae_estimates_cover_the_true_peak(dtype):
    """One tile at real sizes."""
    config = OobleckConfig()
    vae = Oobleck(config, device=META, dtype=dtype)
    latents = torch.empty(1, 64, TILE, device=META, dtype=dtype)
    wave = torch.empty(1, 2, TILE * 1920, device=META, dtype=dtype)
    decoding, encoding = peak_bytes(lambda: vae.decode(latents)), peak_bytes(lambda: vae.encode_mean(wave))
    assert decoding <= decode_bytes(config, TILE, dtype) <= 1.5 * decoding
    assert encoding <= encode_bytes(config, TILE, dtype) <= 1.5 * encoding


def test_vae_estimates_cover_a_real_run():
    config = OobleckConfig(encoder_hidden_size=8, decoder_channels=4, decoder_input_channels=4)
    vae = Oobleck(config)
    latents, wave = torch.randn(1, 4, 10), torch.randn(1, 2, 10 * 1920)
    decoding, encoding = peak_bytes(lambda: vae.decode(latents)), peak_bytes(lambda: vae.encode_mean(wave))
    assert decoding <= decode_bytes(config, 10, torch.float32) <= 4 * decoding
    assert encoding <= encode_bytes(config, 10, torch.float32) <= 4 * encoding
