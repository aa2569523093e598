"""The VAE against diffusers' AutoencoderOobleck."""

from __future__ import annotations

import pytest
import torch

from acestep_models.ops import META, TORCH_OPS
from acestep_models.vae import oobleck
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.fold import fold_weight_norm
from acestep_models.vae.oobleck import Oobleck, ResidualUnit, Snake

# The real ratios with narrow layers, and another geometry with other multiples (spec/audio.md §9.1).
REAL_RATIOS = OobleckConfig(
    encoder_hidden_size=16, channel_multiples=(1, 1, 2, 2, 3), decoder_channels=6, decoder_input_channels=8
)
TWO_BLOCKS = OobleckConfig(
    encoder_hidden_size=16,
    downsampling_ratios=(2, 4),
    channel_multiples=(1, 2),
    decoder_channels=3,
    decoder_input_channels=8,
    sampling_rate=200,
)


@pytest.fixture(scope="module", params=[REAL_RATIOS, TWO_BLOCKS], ids=["real-ratios", "two-blocks"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def oracle(config, perturb):
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    oracle = AutoencoderOobleck(
        encoder_hidden_size=config.encoder_hidden_size,
        downsampling_ratios=list(config.downsampling_ratios),
        channel_multiples=list(config.channel_multiples),
        decoder_channels=config.decoder_channels,
        decoder_input_channels=config.decoder_input_channels,
        audio_channels=config.audio_channels,
        sampling_rate=config.sampling_rate,
    )
    return perturb(oracle, 1)


@pytest.fixture(scope="module")
def vae(config, oracle):
    """Ours with the oracle's weights, weight norm folded; every key is used and none is missing."""
    state = dict(oracle.state_dict())
    for key in [key for key in state if key.endswith(".weight_g")]:
        name = key.removesuffix("_g")
        state[name] = fold_weight_norm(state.pop(key), state.pop(name + "_v"))
    ours = Oobleck(config)
    ours.load_state_dict(state, strict=True)
    return ours.eval()


@pytest.mark.parametrize("frames", [1, 2, 11])
def test_decode_matches_diffusers(config, oracle, vae, rng, relative_error, frames):
    latents = torch.randn(2, config.decoder_input_channels, frames, generator=rng(2))
    with torch.no_grad():
        got, expected = vae.decode(latents), oracle.decode(latents).sample
    assert got.shape == expected.shape == (2, 2, frames * config.hop)
    assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize("rest", [0, 1, 7], ids=lambda rest: f"rest{rest}")
def test_encode_matches_diffusers(config, oracle, vae, rng, relative_error, rest):
    wave = torch.rand(2, 2, 7 * config.hop + rest, generator=rng(3)) * 2 - 1
    with torch.no_grad():
        mean, std = vae.posterior(wave)
        expected = oracle.encode(wave).latent_dist
        assert torch.equal(vae.encode_mean(wave), mean)
    assert mean.shape == std.shape == (2, config.decoder_input_channels, 7)
    assert relative_error(mean, expected.mean) < 1e-5
    assert relative_error(std, expected.std) < 1e-5


def test_decoded_length_is_1920_samples_a_frame():
    vae = Oobleck(OobleckConfig(), device=META)
    assert OobleckConfig().hop == 1920
    for frames in (1, 3, 250):
        assert vae.decode(torch.empty(1, 64, frames, device=META)).shape == (1, 2, 1920 * frames)
        assert vae.encode_mean(torch.empty(1, 2, 1920 * frames + 1919, device=META)).shape == (1, 64, frames)


def test_real_size():
    """168 695 426 parameters with weight norm (spec/audio.md §1.6): folded, one gain per kernel is gone."""
    state = Oobleck(OobleckConfig(), device=META).state_dict()
    gains = {name: len(value) for name, value in state.items() if name.endswith(".weight")}
    assert sum(value.numel() for value in state.values()) == 168_660_608 == 168_695_426 - sum(gains.values())
    assert len(state) == 291 == 365 - len(gains)
    assert state["encoder.conv1.weight"].shape == (128, 2, 7)
    assert state["encoder.block.0.conv1.weight"].shape == (128, 128, 4)
    assert state["encoder.conv2.weight"].shape == (128, 2048, 3)
    assert state["decoder.conv1.weight"].shape == (2048, 64, 7)
    assert state["decoder.block.0.conv_t1.weight"].shape == (2048, 1024, 20)
    assert state["decoder.conv2.weight"].shape == (2, 128, 7)
    assert state["decoder.snake1.alpha"].shape == (1, 128, 1)
    assert "decoder.conv2.bias" not in state


@pytest.mark.parametrize("layer", [torch.nn.Conv1d, torch.nn.ConvTranspose1d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_folded_weight_is_torchs(layer, dtype, perturb, relative_error):
    normed = perturb(torch.nn.utils.parametrizations.weight_norm(layer(6, 4, 5)), 1)
    g, v = (value.to(dtype) for value in normed.parametrizations.weight.parameters())
    normed.parametrizations.weight.original0.data, normed.parametrizations.weight.original1.data = g.float(), v.float()
    folded = fold_weight_norm(g, v)
    assert folded.dtype == torch.float32
    assert relative_error(folded.detach(), normed.weight.detach()) < 1e-6


def test_snake_is_its_formula_spares_its_input_and_has_gradients(perturb, rng):
    snake = perturb(Snake(3, Oobleck(TWO_BLOCKS).encoder.snake1.ops, None, torch.float64), 1, scale=1.0)
    x = torch.randn(2, 3, 5, generator=rng(1), dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    y = snake(x)
    expected = before + torch.sin(snake.alpha.exp() * before) ** 2 / (snake.beta.exp() + 1e-9)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
    assert torch.autograd.gradcheck(snake, (x,))
    y.sum().backward()
    assert snake.alpha.grad.abs().min() > 0 and snake.beta.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(downsampling_ratios=(2, 4, 4, 5, 12)), "must be even"),
        (dict(channel_multiples=(1, 2)), "channel_multiples"),
        (dict(encoder_hidden_size=64), "2 x decoder_input_channels"),
    ],
)
def test_a_config_that_no_vae_can_have_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        OobleckConfig(**wrong)


def test_wrong_shapes_are_refused():
    vae = Oobleck(TWO_BLOCKS)
    with pytest.raises(ValueError, match=r"expected latents \[B, 8, T\], got \[1, 5, 8\]"):
        vae.decode(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match=r"at least 8 samples, got \[1, 2, 7\]"):
        vae.encode_mean(torch.zeros(1, 2, 7))
    with pytest.raises(ValueError, match=r"\[B, 2, N\]"):
        vae.posterior(torch.zeros(1, 1, 100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dilation", [1, 9])
def test_a_unit_in_slices_is_the_unit(dilation, dtype, perturb, rng, relative_error, monkeypatch):
    """Slices that end within what the unit sees of the ends, and one that is shorter than the others."""
    unit = perturb(ResidualUnit(8, dilation, TORCH_OPS, None, None), 1).to(dtype).requires_grad_(False)
    x = torch.randn(2, 8, 1000, generator=rng(4)).to(dtype)
    before = x.clone()
    with torch.inference_mode():
        whole = unit(x)
        for samples in (333, 500, 999, 2000):
            assert relative_error(unit._in_slices(x, samples), whole) < (1e-6 if dtype == torch.float32 else 1e-2)
        monkeypatch.setattr(oobleck, "CACHED_BYTES", 0)
        monkeypatch.setattr(oobleck, "SLICE_BYTES", 333 * x[..., 0].nbytes)
        assert torch.equal(unit(x), unit._in_slices(x, 333))
    assert torch.equal(x, before)


def test_large_units_go_in_slices_on_the_cpu_only_and_leave_gradients_alone(monkeypatch):
    unit = ResidualUnit(64, 1, TORCH_OPS, None, None)
    asked = []
    monkeypatch.setattr(unit, "_in_slices", lambda x, samples, wave: asked.append(samples) or x)
    large, small = torch.zeros(1, 64, 70_000), torch.zeros(1, 64, 60_000)
    unit(small[..., :100].requires_grad_())
    with torch.no_grad():
        unit(large)
        unit(small[..., :1000])
        ResidualUnit(64, 1, TORCH_OPS, META, None)(large.to(META))
    assert asked == [8192]
