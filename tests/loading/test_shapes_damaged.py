"""Tensors of too few sides in a damaged file: an error in words, whichever one it is."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep_models.loading import build_part, probe

READ_FOR_SIZES = {
    "model": (
        "decoder.norm_out.weight",
        "decoder.proj_in.1.weight",
        "null_condition_emb",
        "detokenizer.special_tokens",
    ),
    "vae": ("encoder.layers.0.weight_v", "decoder.layers.7.weight_v", "encoder.layers.1.layers.4.weight_g"),
    "text_encoder": ("model.embed_tokens.weight", "model.layers.0.self_attn.q_norm.weight"),
    "lm": ("model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight"),
}
DAMAGES = [torch.ones(()), torch.ones(0)]


@pytest.fixture
def check(tiny_2b_split, tmp_path):
    """check(file, choose, damage) spoils one tensor after another; how many were told when everything is loaded."""

    def run(file, choose, damage):
        source, path = getattr(tiny_2b_split, file), tmp_path / "damaged.safetensors"
        tensors = load_file(source)
        with safe_open(source, framework="pt") as opened:
            notes = {key: value for key, value in opened.metadata().items() if key != "acestep_config"}
        told = 0
        for key in choose(tensors):
            save_file({**tensors, key: damage}, path, notes)
            with pytest.raises(ValueError, match=r"damaged\.safetensors"):
                for part in (checkpoint := probe(path)).parts:
                    build_part(checkpoint, part, dtype=torch.float32)
            told += 1
        return told

    return run


@pytest.mark.parametrize("damage", DAMAGES, ids=["one number", "nothing"])
@pytest.mark.parametrize("file", READ_FOR_SIZES)
def test_what_sizes_are_read_from_may_be_damaged(file, damage, check):
    assert check(file, lambda tensors: READ_FOR_SIZES[file], damage) == len(READ_FOR_SIZES[file])


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=["one number", "nothing"])
@pytest.mark.parametrize("file", READ_FOR_SIZES)
def test_every_tensor_may_be_damaged(file, damage, check):
    """One of each kind, of the first layers."""

    def one_of_each(tensors):
        return {key.replace("layers.1.", "layers.0."): key for key in tensors if ".3." not in key and ".2." not in key}

    assert check(file, lambda tensors: one_of_each(tensors).values(), damage) > 10
