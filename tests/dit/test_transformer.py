"""The decoder against diffusers, and what must not change its result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT, sinusoid


@pytest.fixture
def song(rng):
    """song(config, batch, frames, tokens): random inputs of the decoder, a different time for each item."""

    def make(config, batch=2, frames=25, tokens=9):
        generator = rng(7)
        C, E = config.audio_acoustic_hidden_dim, config.encoder_hidden_size
        return dict(
            x=torch.randn(batch, frames, C, generator=generator),
            context=torch.randn(batch, frames, 2 * C, generator=generator),
            tokens=torch.randn(batch, tokens, E, generator=generator),
            t=torch.linspace(0.9, 0.2, batch),
        )

    return make


@pytest.fixture
def decoder(perturb):
    """decoder(config) -> a perturbed tiny DiT."""
    return lambda config: perturb(DiT(config), 11)


@pytest.mark.parametrize("frames", [25, 24, 3], ids=lambda frames: f"T{frames}")
@pytest.mark.parametrize("to_r", [False, True], ids=["r=t", "r<t"])
def test_matches_diffusers(tiny, oracle_decoder, adopt, song, relative_error, frames, to_r):
    oracle = oracle_decoder(tiny)
    ours, given = adopt(DiT(tiny), oracle), song(tiny, frames=frames)
    r = given["t"] * 0.5 if to_r else None
    with torch.no_grad():
        expected = oracle(
            given["x"],
            given["t"],
            given["t"] if r is None else r,
            given["tokens"],
            given["context"],
            return_dict=False,
        )[0]
        got = ours(**given, r=r)
    assert got.shape == expected.shape == given["x"].shape
    assert relative_error(got, expected) < 1e-5


def test_the_band_the_order_of_the_channels_and_the_second_time_all_matter(tiny_2b, decoder, song, relative_error):
    """What the oracle tests would not notice if the tiny weights hid it."""
    given, net = song(tiny_2b), decoder(tiny_2b)
    swapped = torch.cat(given["context"].chunk(2, dim=-1)[::-1], dim=-1)
    unbanded = DiT(replace(tiny_2b, sliding_window=128))
    unbanded.load_state_dict(net.state_dict())
    with torch.no_grad():
        plain = net(**given)
        assert relative_error(net(**{**given, "context": swapped}), plain) > 1e-2
        assert relative_error(net(**given, r=given["t"] * 0), plain) > 1e-2
        assert relative_error(unbanded(**given), plain) > 1e-2


def test_a_window_as_long_as_the_song_is_full_attention(tiny_2b, decoder, song, relative_error):
    given = song(tiny_2b, frames=26)  # 13 patches
    net = decoder(replace(tiny_2b, sliding_window=12))
    wide = DiT(replace(tiny_2b, sliding_window=1000))
    wide.load_state_dict(net.state_dict())
    narrow = DiT(replace(tiny_2b, sliding_window=11))
    narrow.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(net(**given), wide(**given))
        assert relative_error(narrow(**given), wide(**given)) > 1e-4


def test_an_odd_length_is_the_even_one_with_a_zero_frame(tiny, decoder, song):
    given, net = song(tiny, frames=25), decoder(tiny)
    longer = given | {
        name: torch.cat([given[name], torch.zeros_like(given[name][:, :1])], dim=1) for name in ("x", "context")
    }
    with torch.no_grad():
        assert torch.equal(net(**given), net(**longer)[:, :25])


def test_padded_tokens_are_never_attended_to(tiny, decoder, song, relative_error):
    given, net = song(tiny, tokens=9), decoder(tiny)
    lengths = (9, 5)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        batch = net(**given, token_mask=mask)
        noisy = given["tokens"] + 1000 * (~mask)[..., None]
        assert torch.equal(net(**{**given, "tokens": noisy}, token_mask=mask), batch)
        for item, length in enumerate(lengths):
            alone = {name: value[item : item + 1] for name, value in given.items()}
            alone["tokens"] = alone["tokens"][:, :length]
            assert relative_error(batch[item : item + 1], net(**alone)) < 1e-5
        assert relative_error(batch[1], net(**given)[1]) > 1e-3  # upstream's way gives another song


def test_a_batch_is_its_items(tiny, decoder, song, relative_error):
    given, net = song(tiny, batch=3), decoder(tiny)
    with torch.no_grad():
        batch = net(**given)
        for item in range(3):
            alone = net(**{name: value[item : item + 1] for name, value in given.items()})
            assert relative_error(batch[item : item + 1], alone) < 1e-5


def test_the_sinusoid_is_cosines_then_sines():
    e = sinusoid(torch.tensor([0.0, 0.5]))
    assert e.shape == (2, 256) and e.dtype == torch.float32
    assert e[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert e[1, 0].item() == pytest.approx(-0.88387747, abs=1e-4)  # cos 500
    assert e[1, 128].item() == pytest.approx(-0.46777181, abs=1e-4)  # sin 500
    assert e[1, 127].item() == pytest.approx(0.99855954, abs=1e-5)  # cos(500 · 10000^(-127/128))


def test_bf16_stays_near_fp32(tiny, decoder, song, relative_error):
    given, net = song(tiny), decoder(tiny)
    with torch.no_grad():
        expected = net(**given)
        half = {name: value.bfloat16() for name, value in given.items() if name != "t"}
        got = net.bfloat16()(**half, t=given["t"])
    assert got.dtype == torch.bfloat16
    assert relative_error(got, expected) < 0.15


def test_gradients_reach_the_input_and_every_parameter(tiny, decoder, song):
    given, net = song(tiny), decoder(tiny)
    given["x"].requires_grad_()
    net(**given).square().mean().backward()
    assert given["x"].grad.abs().max() > 0
    dead = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert dead == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(head_dim=15), "head_dim must be even"),
        (dict(num_attention_heads=15), "do not divide"),
        (dict(encoder_num_attention_heads=9), "do not divide"),
        (dict(in_channels=128), "in_channels"),
        (dict(fsq_dim=1024), "fsq_dim"),
        (dict(fsq_input_levels=()), "fsq_input_levels"),
        (dict(patch_size=0), "patch_size"),
        (dict(hidden_size=0), "at least 1"),
    ],
)
def test_a_config_that_no_network_can_have_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        DiTConfig(**wrong)
