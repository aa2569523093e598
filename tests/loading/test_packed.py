"""Weights in eight bits: which, how exact, how large, and computed with as the numbers that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep_models.loading import build_part, load_state, probe
from acestep_models.loading.packed import PackedLinear, Packing, is_packed, pack_weight, packed_linear, quantise_rows

INT8 = Packing(PackedLinear, torch.float32)
INPUTS = {
    "decoder": ((1, 50, 64), (1, 50, 128), (1, 9, 64), (1,)),
    "condition": ((1, 8, 32), (1, 12, 32), (2, 750, 64)),
    "detokenizer": ((1, 10, 64),),
}


def cosine(a, b):
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.fixture
def pair(tiny_2b_split, perturb):
    """pair(part) -> the network of a tiny file in fp32 and with its matrices in int8."""
    files = {"lm": tiny_2b_split.lm, "text_encoder": tiny_2b_split.text_encoder, "vae": tiny_2b_split.vae}

    def load(part):
        checkpoint = probe(files.get(part, tiny_2b_split.model))
        return tuple(build_part(checkpoint, part, dtype=torch.float32, packing=kind) for kind in (None, INT8))

    return load


def test_rows_are_rounded_to_half_a_step(rng):
    weight = torch.randn(40, 64, generator=rng(1)) * torch.logspace(-4, 4, 40)[:, None]
    weight[3] = 0
    packed, scale = quantise_rows(weight)
    assert packed.dtype == torch.int8 and scale.shape == (40, 1) and scale.dtype == torch.float32
    assert torch.equal(scale, scale.bfloat16().float()), "a kernel in bf16 computes with the same scales"
    assert bool((packed.int().abs() <= 127).all()) and not bool(packed[3].any())
    assert bool(((packed.float() * scale - weight).abs() <= 0.5001 * scale).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_told(value):
    weight = torch.ones(4, 4)
    weight[2, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        pack_weight("layers.0.mlp.up_proj", weight)


@pytest.mark.parametrize("given", [torch.tensor(3.0), torch.arange(1.0, 41.0)], ids=["one", "each row"])
def test_a_scale_beside_a_full_weight_counts(rng, given):
    weight = torch.randn(40, 64, generator=rng(10)).bfloat16()
    meant = weight.float() * given.reshape(-1, 1)
    made = pack_weight("layer", weight, given)
    packed, scale = made["layer.weight"], made["layer.scale_weight"]
    assert packed.dtype == torch.int8
    assert bool(((packed.float() * scale - meant).abs() <= 0.5001 * scale).all())


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8])
def test_another_dtype_is_not_for_packed_weights(rng, kind):
    """Asked for as `nn.Module.to` asks it; else fp8 would become a weight without a scale."""
    layer = PackedLinear(64, 40)
    numbers = torch.randn(40, 64, generator=rng(11)).mul(50).to(kind)
    layer.load_state_dict(
        {"weight": numbers, "scale_weight": torch.full((40, 1), 0.011)} | {"bias": torch.ones(40)}, assign=True
    )
    meant, x = layer.unpacked(), torch.randn(3, 64, generator=rng(12))
    before = layer(x)
    for change in (lambda one: one.to(torch.bfloat16), torch.nn.Module.half, lambda one: one.to("cpu", torch.float64)):
        change(torch.nn.Sequential(layer))
        assert layer.weight.dtype == kind and layer.scale_weight.dtype == torch.float32
        assert torch.equal(layer.unpacked(), meant) and torch.equal(layer(x), before)
    assert layer.bias.dtype == torch.float64, "what is not packed follows"
    away = layer.to("meta", torch.bfloat16)
    assert away.weight.is_meta and away.scale_weight.is_meta and away.weight.dtype == kind


@pytest.fixture
def with_single(tmp_path):
    """with_single(path, key, kind) -> a copy of a file in which `key` is one number without a shape, in that dtype."""

    def write(path, key, kind):
        with safe_open(path, framework="pt") as file:
            save_file(
                load_file(path) | {key: torch.ones(()).to(kind)}, tmp_path / "single.safetensors", file.metadata()
            )
        return tmp_path / "single.safetensors"

    return write


@pytest.mark.parametrize("packing", [None, INT8], ids=["full", "packed"])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8])
def test_a_single_number_in_place_of_a_matrix_is_told(tiny_2b_split, with_single, kind, packing):
    path = with_single(tiny_2b_split.model, "decoder.layers.1.mlp.down_proj.weight", kind)
    with pytest.raises(ValueError, match=r"single\.safetensors: layers\.1\.mlp\.down_proj\.weight .*a single number"):
        load_state(probe(path), "decoder", torch.float32, packing)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float32])
def test_a_single_number_in_place_of_lengths_is_told(tiny_2b_split, with_single, kind):
    """Of a weight norm only the other half has a shape that the network wants."""
    path = with_single(tiny_2b_split.vae, "encoder.layers.0.weight_g", kind)
    with pytest.raises(
        ValueError,
        match=r"single\.safetensors: the vae has lengths that are not one for each row: encoder\.conv1",
    ):
        build_part(probe(path), "vae", dtype=torch.float32)


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("shape", [(64, 96), (48, 33)], ids=["whole vectors", "odd"])
def test_products_are_those_of_the_numbers_they_stand_for(rng, relative_error, rows, shape):
    packed, scale = quantise_rows(torch.randn(shape, generator=rng(2)))
    bias = torch.randn(shape[0], generator=rng(3))
    x = torch.randn(rows, shape[1], generator=rng(4))
    wanted = F.linear(x.double(), (packed.float() * scale).double(), bias.double())
    assert relative_error(packed_linear(x, packed, scale, bias), wanted) < 1e-6
    half = packed_linear(x.bfloat16()[None], packed, scale, bias.bfloat16())
    assert half.shape == (1, rows, shape[0]) and half.dtype == torch.bfloat16
    rounded = F.linear(x.bfloat16().double(), (packed.float() * scale).double(), bias.bfloat16().double())
    assert relative_error(half[0], rounded) < 0.01


def test_few_rows_in_bf16_go_through_the_int8_kernel(monkeypatch, rng):
    used = []
    kernel = torch._weight_int8pack_mm
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda *given: used.append(len(given[0])) or kernel(*given))
    packed, scale = quantise_rows(torch.randn(64, 64, generator=rng(5)))
    for rows, dtype in ((2, torch.bfloat16), (9, torch.bfloat16), (2, torch.float32)):
        packed_linear(torch.randn(1, rows, 64, generator=rng(6)).to(dtype), packed, scale)
    assert used == [2], "it is slower for many rows, and in fp32"


def test_a_layer_of_real_width(rng):
    weight, x = 0.02 * torch.randn(2048, 2048, generator=rng(7)), torch.randn(5, 2048, generator=rng(8))
    packed, scale = quantise_rows(weight)
    assert cosine(packed_linear(x, packed, scale), F.linear(x, weight)) > 0.99995


@pytest.mark.parametrize("part", INPUTS)
def test_networks_around_the_decoder_and_itself(part, pair, rng):
    whole, packed = pair(part)
    given = [torch.rand(shape, generator=rng(9)) for shape in INPUTS[part]]
    with torch.inference_mode():
        wanted, got = whole(*given), packed(*given)
    assert 0.999 < cosine(got, wanted) < 1
    kinds = {name: value.dtype for name, value in packed.state_dict().items()}
    small = {name for name, dtype in kinds.items() if dtype == torch.int8}
    matrices = {name for name in whole.state_dict() if ".layers." in f".{name}" and name.endswith("_proj.weight")}
    assert small == matrices and len(small) > 7
    assert {dtype for name, dtype in kinds.items() if name not in small} == {torch.float32}


@pytest.mark.parametrize("part", ["text_encoder", "lm"])
def test_language_models(part, pair):
    whole, packed = pair(part)
    ids = torch.arange(40)[None] + 5
    with torch.inference_mode():
        assert 0.999 < cosine(packed(ids), whole(ids)) < 1
    assert packed.embed_tokens.weight.dtype == torch.float32, "codes are embedded, and read out, in full"


@pytest.mark.parametrize("part", ["tokenizer", "vae"])
def test_what_is_never_packed(part, pair):
    whole, same = (network.state_dict() for network in pair(part))
    assert all(torch.equal(whole[name], value) for name, value in same.items()) and whole.keys() == same.keys()


def test_what_moves_the_norms_and_frames_stays_whole():
    stay = ("time_embed.linear_1", "time_embed.time_proj", "proj_in.1", "proj_out.1", "condition_embedder")
    assert not any(
        is_packed("decoder", name) for name in (*stay, "layers.0.self_attn_norm", "layers.0.self_attn.q_norm")
    )
    assert is_packed("decoder", "layers.31.cross_attn.o_proj") and not is_packed("detokenizer", "proj_out")
    assert not is_packed("tokenizer", "attention_pooler.layers.0.mlp.up_proj")


def test_bytes_are_halved_at_real_size():
    """On meta, the 2B decoder: 3005 MiB in bf16 (spec/perf.md §2)."""
    from acestep_models.dit.config import DiTConfig
    from acestep_models.dit.transformer import DiT
    from acestep_models.loading.packed import pack_layers
    from acestep_models.ops import META

    decoder = DiT(DiTConfig(), device=META, dtype=torch.bfloat16)
    before = sum(value.nbytes for value in decoder.state_dict().values())
    pack_layers(decoder, "decoder", Packing(PackedLinear, torch.bfloat16))
    after = sum(value.nbytes for value in decoder.state_dict().values())
    assert 0.50 < after / before < 0.54
