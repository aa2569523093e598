"""The memory estimates of the networks against what really lives at once."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acestep_models.dit.codes import AudioDetokenizer, AudioTokenizer
from acestep_models.dit.condition import ConditionEncoder
from acestep_models.dit.config import XL, DiTConfig, activation_bytes, codes_bytes, condition_bytes
from acestep_models.dit.transformer import DiT
from acestep_models.ops import META, Ops
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck
from acestep_models.vae.tiling import TILE, decode_bytes, encode_bytes

TWO_B = DiTConfig()


class Peak(TorchDispatchMode):
    """The most bytes of tensors that were alive at once among those made inside; views count once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.users = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            key = leaf.untyped_storage()._cdata if torch.is_tensor(leaf) else None
            if key in self.users or (key is not None and key not in given):
                self._hold(leaf, key)
        return out

    def _hold(self, tensor, key):
        if key not in self.users:
            self.users[key] = 0
            self.now += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.now)
        self.users[key] += 1
        weakref.finalize(tensor, self._release, key, tensor.untyped_storage().nbytes())

    def _release(self, key, size):
        self.users[key] -= 1
        if self.users[key] == 0:
            del self.users[key]
            self.now -= size


def fused_attention(q, k, v, mask=None, causal=False):
    """What a fused kernel allocates: its result, and the mask as numbers; no scores."""
    numbers = None if mask is None else mask.to(q.dtype)
    result = torch.empty_like(q)
    del numbers
    return result


FUSED = Ops(attention=fused_attention)


def peak_bytes(run):
    gc.collect()
    with torch.no_grad(), Peak() as peak:
        run()
    return peak.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("config", "batch", "frames", "tokens"),
    [(TWO_B, 1, 6000, 400), (TWO_B, 2, 250, 2000), (XL, 2, 15_000, 400), (XL, 8, 250, 100)],
    ids=["2b-240s", "2b-10s", "xl-600s", "xl-10s"],
)
def test_decoder_estimate_covers_the_true_peak(config, batch, frames, tokens, dtype):
    """At real sizes, on the meta device, where tensors have a size and no content."""
    config = replace(config, num_hidden_layers=2)
    net = DiT(config, FUSED, META, dtype)

    def empty(*shape):
        return torch.empty(*shape, device=META, dtype=dtype)

    given = empty(batch, frames, 64), empty(batch, frames, 128), empty(batch, tokens, config.encoder_hidden_size)
    true = peak_bytes(lambda: net(*given, empty(batch)))
    assert true <= activation_bytes(config, batch, frames, tokens, dtype) <= 2.5 * true


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
    true = peak_bytes(lambda: net(*given))
    assert true <= activation_bytes(config, 2, 400, 30, torch.float32) <= 4 * true


@pytest.mark.parametrize(("lyrics", "references"), [(2048, 1), (20, 3)])
def test_condition_estimate_covers_the_true_peak(lyrics, references):
    config = replace(XL, num_lyric_encoder_hidden_layers=2, num_timbre_encoder_hidden_layers=2)
    net = ConditionEncoder(config, FUSED, META)
    given = torch.empty(1, 200, 1024), torch.empty(1, lyrics, 1024), torch.empty(references, 750, 64)
    true = peak_bytes(lambda: net(*(value.to(META) for value in given)))
    assert true <= condition_bytes(config, lyrics, references, torch.float32) <= 4 * true


def test_codes_estimate_covers_the_true_peak():
    tokenizer, detokenizer = AudioTokenizer(XL, FUSED, META), AudioDetokenizer(XL, FUSED, META)
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
