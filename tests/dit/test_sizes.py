"""Parameter counts, names and shapes at full size, on the meta device."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.codes import AudioDetokenizer, AudioTokenizer
from acestep_models.dit.condition import ConditionEncoder
from acestep_models.dit.config import XL, DiTConfig
from acestep_models.dit.transformer import DiT
from acestep_models.ops import META

TWO_B = DiTConfig()


@pytest.mark.parametrize(
    ("network", "config", "parameters", "tensors"),
    [
        (DiT, TWO_B, 1_575_458_880, 476),
        (DiT, XL, 4_168_897_088, 628),
        (ConditionEncoder, TWO_B, 608_369_664, 141),
        (ConditionEncoder, XL, 608_369_664, 141),
        (AudioTokenizer, XL, 105_032_198, 32),
        (AudioDetokenizer, XL, 105_011_776, 28),
    ],
)
def test_real_sizes(network, config, parameters, tensors):
    """The counts of spec/audio.md §1.6, which agree with the published files."""
    state = network(config, device=META, dtype=torch.bfloat16).state_dict()
    assert (sum(value.numel() for value in state.values()), len(state)) == (parameters, tensors)
    assert all(value.is_meta and value.dtype == torch.bfloat16 for value in state.values())


def test_names_and_shapes_are_upstreams():
    shapes = {name: tuple(value.shape) for name, value in DiT(XL, device=META).state_dict().items()}
    assert shapes["proj_in.1.weight"] == (2560, 192, 2)
    assert shapes["proj_out.1.weight"] == (2560, 64, 2)
    assert shapes["time_embed_r.time_proj.weight"] == (15360, 2560)
    assert shapes["condition_embedder.weight"] == (2560, 2048)
    assert shapes["layers.31.self_attn.q_proj.weight"] == (4096, 2560)
    assert shapes["layers.0.cross_attn.k_proj.weight"] == (1024, 2560)
    assert shapes["layers.0.cross_attn.o_proj.weight"] == (2560, 4096)
    assert shapes["layers.0.scale_shift_table"] == (1, 6, 2560)
    assert shapes["layers.0.mlp.gate_proj.weight"] == (9728, 2560)
    assert (TWO_B.timbre_special_token, XL.timbre_special_token) == (False, True)
