"""Files in fp8 as ComfyUI knows them: bare, with `scale_weight` beside `scaled_fp8`, and with `weight_scale`."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep_models.loading import build_part, load_state, probe
from acestep_models.loading.packed import PackedLinear, Packing, is_packed

FP8 = torch.float8_e4m3fn
STAYING = Packing(PackedLinear, torch.float32, int8=False)
MATRIX = "decoder.layers.0.mlp.up_proj"
KINDS = ("bare", "scale_weight", "weight_scale")


@pytest.fixture
def write_fp8(tmp_path, tiny_2b_split):
    """write_fp8(kind, change) -> the tiny model in fp8: the matrices of its layers, or (bare) all of it.

    And the numbers that it stands for, by the names of the file; `change` edits the tensors in place.
    """

    def write(kind, change=lambda tensors: None):
        tensors, meant = load_file(tiny_2b_split.model), {}
        for name, value in list(tensors.items()):
            layer = name.removesuffix(".weight")
            matrix = layer != name and is_packed("decoder", layer)
            scale = 1.0 if kind == "bare" else float(value.abs().max()) / 448
            if kind == "bare" or matrix:
                tensors[name] = (value / scale).to(FP8)
                meant[name] = tensors[name].float() * scale
            else:
                meant[name] = value
            if matrix and kind != "bare":
                tensors[f"{layer}.{kind}"] = torch.tensor(scale)
                tensors[f"{layer}.{'scale_input' if kind == 'scale_weight' else 'input_scale'}"] = torch.tensor(1.0)
        if kind == "scale_weight":
            tensors["scaled_fp8"] = torch.zeros(2, dtype=FP8)
        change(tensors)
        with safe_open(tiny_2b_split.model, framework="pt") as file:
            save_file(tensors, tmp_path / f"{kind}.safetensors", file.metadata())
        return tmp_path / f"{kind}.safetensors", meant

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_the_one_that_is_meant(kind, write_fp8):
    path, meant = write_fp8(kind)
    checkpoint = probe(path)
    for part, prefix in (("decoder", "decoder."), ("condition", "encoder."), ("tokenizer", "tokenizer.")):
        for name, value in load_state(checkpoint, part, torch.float32).items():
            theirs = name if name == "null_condition_emb" else prefix + name
            assert torch.allclose(value, meant[theirs], rtol=1e-6, atol=0), theirs


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_stay_in_eight_bits(kind, write_fp8, rng, relative_error):
    checkpoint = probe(write_fp8(kind)[0])
    plain = build_part(checkpoint, "decoder", dtype=torch.float32)
    small = build_part(checkpoint, "decoder", dtype=torch.float32, packing=STAYING)
    kinds = {name: value.dtype for name, value in small.state_dict().items()}
    assert {name for name, dtype in kinds.items() if dtype == FP8} == {
        name for name in plain.state_dict() if name.endswith(".weight") and is_packed("decoder", name[:-7])
    }
    assert kinds["layers.0.scale_shift_table"] == kinds["layers.0.mlp_norm.weight"] == torch.float32
    given = [torch.randn(shape, generator=rng(1)) for shape in ((1, 50, 64), (1, 50, 128), (1, 9, 64))]
    with torch.inference_mode():
        assert relative_error(*(net(*given, torch.tensor([0.5])) for net in (small, plain))) < 1e-5
    same = build_part(checkpoint, "tokenizer", dtype=torch.float32, packing=STAYING)
    assert not any(isinstance(layer, PackedLinear) for layer in same.modules())


def test_a_full_file_stays_full_without_int8(tiny_2b_split):
    state = build_part(probe(tiny_2b_split.model), "decoder", dtype=torch.float32, packing=STAYING).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_int8_leaves_what_is_in_fp8_already(write_fp8):
    checkpoint = probe(write_fp8("scale_weight")[0])
    state = load_state(checkpoint, "decoder", torch.float32, Packing(PackedLinear, torch.float32))
    assert state[f"{MATRIX[8:]}.weight"].dtype == FP8


def test_scales_of_blocks_are_refused(write_fp8):
    path, _ = write_fp8("weight_scale", lambda tensors: tensors.update({f"{MATRIX}.weight_scale": torch.ones(128, 2)}))
    with pytest.raises(
        ValueError,
        match=r"weight_scale\.safetensors: layers\.0\.mlp\.up_proj\.weight of the decoder: its scale.*\[128, 2\]",
    ):
        build_part(probe(path), "decoder", dtype=torch.float32, packing=STAYING)
    with pytest.raises(ValueError, match=r"its scale has the shape \[128, 2\], expected one number or 128"):
        load_state(probe(path), "decoder", torch.float32)


def test_a_scale_of_nothing_is_a_stranger(write_fp8):
    path, _ = write_fp8("scale_weight", lambda tensors: tensors.update({"decoder.nothing.scale_weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"do not belong.*decoder\.nothing\.scale_weight"):
        probe(path)


def test_int8_without_scales_is_refused(write_fp8):
    path, _ = write_fp8(
        "bare", lambda tensors: tensors.update({f"{MATRIX}.weight": torch.ones(128, 64).to(torch.int8)})
    )
    with pytest.raises(ValueError, match=r"up_proj\.weight of the decoder: it is in int8 without a scale"):
        build_part(probe(path), "decoder", dtype=torch.float32)
