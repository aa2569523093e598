"""The blocks of GGUF files: the numbers of the `gguf` package, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

gguf = pytest.importorskip("gguf")

from acestep_models.loading.blocks import BLOCKS, unblock  # noqa: E402
from acestep_models.loading.packed import BlockLinear  # noqa: E402

# How far off a normal distribution is after rounding: a little over what ggml's own search for scales gets.
NEAR = {"Q8_0": 0.008, "Q6_K": 0.025, "Q5_K": 0.05, "Q5_1": 0.05, "Q5_0": 0.06, "Q4_K": 0.1, "Q4_1": 0.1, "Q4_0": 0.12}


def random_rows(block, rows, width, random):
    """Random bytes, as a file of any weights has them: only numbers that are not finite do not occur."""
    raw = torch.randint(0, 256, (rows * width // block.numbers, block.bytes), generator=random, dtype=torch.uint8)
    halves = raw.view(torch.float16)  # every byte that can be an exponent of a scale stays below infinity
    halves[~halves.isfinite()] = 1.5
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_numbers_are_those_of_the_package(kind, rng):
    block, theirs = BLOCKS[kind], gguf.GGMLQuantizationType[kind]
    assert gguf.GGML_QUANT_SIZES[theirs] == (block.numbers, block.bytes)
    stored = random_rows(block, 700, 512, rng(1))  # more than one slice
    wanted = torch.from_numpy(gguf.quants.dequantize(stored.numpy(), theirs))
    assert wanted.isfinite().all() and wanted.shape == (700, 512)
    got = unblock(stored, block, torch.float32)
    assert torch.equal(got.view(torch.int32), wanted.view(torch.int32)) or torch.equal(got, wanted)
    assert torch.equal(unblock(stored, block, torch.bfloat16), wanted.bfloat16()), "rounded once"


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_layer_computes_with_them(kind, rng, ggufs, relative_error):
    weight, x = 0.02 * torch.randn(96, 256, generator=rng(2)), torch.randn(2, 5, 256, generator=rng(3))
    layer = BlockLinear(256, 96, block=BLOCKS[kind])
    stored = torch.from_numpy(ggufs.quantise(weight.numpy(), gguf.GGMLQuantizationType[kind]))
    layer.load_state_dict({"weight": stored, "bias": torch.randn(96, generator=rng(4))}, assign=True)
    assert float((layer.unpacked() - weight).norm() / weight.norm()) < NEAR[kind]
    assert torch.equal(layer(x), F.linear(x, layer.unpacked(), layer.bias))
    for given in (torch.bfloat16, torch.float16, torch.float32):
        assert torch.equal(layer.numbers(stored.to(given)), layer.unpacked()), "a byte survives the host's casts"
    moved = torch.nn.Sequential(layer).to(torch.bfloat16)[0]
    assert moved.weight.dtype == torch.uint8 and moved.bias.dtype == torch.bfloat16
    assert layer.weight.nbytes == layer.packed_bytes == 96 * 256 // BLOCKS[kind].numbers * BLOCKS[kind].bytes
    assert relative_error(moved(x.bfloat16()), F.linear(x, layer.unpacked(), layer.bias.float())) < 0.02
