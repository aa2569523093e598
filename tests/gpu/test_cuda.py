"""Every network on a CUDA card against itself on the CPU, at tiny size; fp32 without TF32, and bf16."""

from __future__ import annotations

import pytest
import torch

from acestep_models.loading import build_part, probe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
CPU = ("cpu", torch.float32)
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.15}  # the VAE is at 0.07 in bf16 on the CPU
PADDED = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])  # the second song has 5 tokens


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def decoder_inputs(cast):
    """x, context, tokens and t of two songs of 50 frames: 25 patches, which the band of 8 does not span."""
    inputs = tuple(map(cast, (normal(2, 50, 64), normal(2, 50, 128, seed=1), normal(2, 9, 64, seed=2))))
    return *inputs, torch.tensor([0.9, 0.4], device=inputs[0].device)  # samplers hand out t in fp32


def run_decoder(network, cast):
    return network(*decoder_inputs(cast))


def run_decoder_masked(network, cast):
    x, context, tokens, t = decoder_inputs(cast)
    return network(x, context, tokens, t, token_mask=PADDED.to(x.device))


# name -> part of the model and what to ask of it; `cast` brings an input to device and dtype
CALLS = {
    "decoder": ("decoder", run_decoder),
    "decoder, padded tokens": ("decoder", run_decoder_masked),
    "condition encoder": (
        "condition",
        lambda network, cast: network(
            cast(normal(1, 9, 32)), cast(normal(1, 300, 32, seed=1)), cast(normal(1, 750, 64, seed=2))
        ),
    ),
    "VAE decode": ("vae", lambda network, cast: network.decode(cast(normal(1, 64, 20)))),
    "VAE encode": ("vae", lambda network, cast: network.encode_mean(cast(normal(1, 2, 20 * 1920).clamp(-1, 1)))),
}


@pytest.fixture(autouse=True)
def real_fp32():
    """By default convolutions on a card round fp32 to TF32, which has the mantissa of fp16."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def run(tiny_2b_split):
    """run(part, call, (device, dtype)) builds the network there and calls it."""

    def build_and_call(part, call, place):
        device, dtype = place
        checkpoint = probe(tiny_2b_split.vae if part == "vae" else tiny_2b_split.model)
        network = build_part(checkpoint, part, dtype=dtype).to(device)
        return call(network, lambda tensor: tensor.to(device, dtype)).float().cpu()

    return build_and_call


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("part", "call"), CALLS.values(), ids=CALLS)
def test_card_computes_what_the_cpu_does(run, relative_error, part, call, dtype):
    assert relative_error(run(part, call, (DEVICE, dtype)), run(part, call, CPU)) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_padded_tokens_are_not_heard_on_a_card(run, relative_error, dtype):
    """The shorter song of a padded batch is the song alone: the kernel must mask keys, not only weigh them less."""

    def alone(network, cast):
        x, context, tokens, t = (part[1:] for part in decoder_inputs(cast))
        return network(x, context, tokens[:, :5], t)

    def in_batch(network, cast):
        return run_decoder_masked(network, cast)[1:]

    place = (DEVICE, dtype)
    assert relative_error(run("decoder", in_batch, place), run("decoder", alone, place)) < TOLERANCES[dtype]
