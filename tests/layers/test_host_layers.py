"""Networks made of layers that store bf16 and compute in the input's dtype, as ComfyUI's do (spec/host.md §2)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from acestep_models.dit.codes import AudioDetokenizer, AudioTokenizer
from acestep_models.dit.condition import ConditionEncoder
from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT
from acestep_models.ops import Ops
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck

CONFIG = DiTConfig(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
    encoder_hidden_size=32,
    encoder_intermediate_size=64,
    encoder_num_attention_heads=2,
    encoder_num_key_value_heads=1,
    in_channels=24,
    audio_acoustic_hidden_dim=8,
    text_hidden_dim=24,
    sliding_window=4,
    num_lyric_encoder_hidden_layers=2,
    num_timbre_encoder_hidden_layers=2,
    fsq_dim=32,
)
VAE = OobleckConfig(
    encoder_hidden_size=8, channel_multiples=(1, 1, 1, 1, 1), decoder_channels=4, decoder_input_channels=4
)


class Casting:
    """Weights are cast when they meet the input, and start as memory left them: the host fills them by loading."""

    def reset_parameters(self):
        with torch.no_grad():
            for value in self.parameters():
                value.fill_(float("nan"))

    def at(self, x):
        return self.weight.to(x), None if getattr(self, "bias", None) is None else self.bias.to(x)


class CastingLinear(Casting, nn.Linear):
    def forward(self, x):
        return F.linear(x, *self.at(x))


class CastingConv1d(Casting, nn.Conv1d):
    def forward(self, x):
        return self._conv_forward(x, *self.at(x))


class CastingConvTranspose1d(Casting, nn.ConvTranspose1d):
    def forward(self, x):
        return F.conv_transpose1d(x, *self.at(x), self.stride, self.padding)


class CastingRMSNorm(Casting, nn.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.at(x)[0], self.eps)


def run_condition(net, generator):
    tokens = net(*(torch.randn(shape, generator=generator) for shape in ((1, 8, 24), (1, 12, 24), (2, 30, 8))))
    return torch.cat([tokens, net.null_tokens(3, tokens)], dim=1)


def run_vae(net, generator):
    net.decode(torch.randn(1, 4, 3, generator=generator))
    return net.encode_mean(net.decode(torch.randn(1, 4, 3, generator=generator)))


RUNS = {
    DiT: lambda net, g: net(
        torch.randn(1, 25, 8, generator=g),
        torch.randn(1, 25, 16, generator=g),
        torch.randn(1, 9, 32, generator=g),
        torch.tensor([0.5]),
    ),
    ConditionEncoder: run_condition,
    AudioTokenizer: lambda net, g: net(torch.randn(1, 23, 8, generator=g), torch.randn(1, 5, 8, generator=g))[0],
    AudioDetokenizer: lambda net, g: net(torch.randn(1, 4, 32, generator=g)),
    Oobleck: run_vae,
}


@pytest.mark.parametrize("network", RUNS, ids=lambda network: network.__name__)
def test_casting_layers_drop_in(network, perturb, rng):
    """Same result as plain fp32 layers with these weights; and every raw parameter is cast where it is used."""
    config = VAE if network is Oobleck else CONFIG
    cast = set()

    def remember(value, like):
        cast.add(id(value))
        return value.to(like)

    ops = Ops(CastingLinear, CastingConv1d, CastingConvTranspose1d, CastingRMSNorm, cast=remember)
    plain = perturb(network(config), 1)
    weights = {name: value.bfloat16() for name, value in plain.state_dict().items()}
    plain.load_state_dict({name: value.float() for name, value in weights.items()})
    casting = network(config, ops, dtype=torch.bfloat16)
    casting.load_state_dict(weights)
    with torch.no_grad():
        got, expected = RUNS[network](casting, rng(3)), RUNS[network](plain, rng(3))
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    raw = {name for name, value in casting.named_parameters() if is_raw(casting, name)}
    assert {name for name, value in casting.named_parameters() if id(value) in cast} >= raw
    assert raw or network not in (DiT, Oobleck)


def is_raw(net, name):
    """Whether the parameter belongs to no layer."""
    owner = net.get_submodule(name.rpartition(".")[0])
    return not isinstance(owner, Casting)
