"""LoKr, LoHa and DoRA as LyCORIS plays them.

Its forward is the reference. `get_merged_weight` of version 4 multiplies LoKr and LoHa by their scale twice.
"""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from acestep_models.adapters.delta import merge_into
from acestep_models.adapters.files import read_adapter

DORA = dict(weight_decompose=True, wd_on_out=True)
CASES = [
    ("lokr.LokrModule", {}),
    ("lokr.LokrModule", dict(decompose_both=True, factor=4)),
    ("lokr.LokrModule", dict(full_matrix=True)),
    ("lokr.LokrModule", DORA),
    ("loha.LohaModule", {}),
    ("loha.LohaModule", DORA),
    ("locon.LoConModule", {}),
    ("locon.LoConModule", DORA),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_we_merge_what_lycoris_plays(name, options, tmp_path, relative_error):
    file, kind = name.split(".")
    layer = nn.Linear(48, 32, bias=False)
    module = getattr(import_module(f"lycoris.modules.{file}"), kind)("x", layer, 1.0, 3, 2.0, **options).eval()
    for key, parameter in module.named_parameters():
        if "dora" in key:
            parameter.data.mul_(torch.linspace(0.5, 1.5, 32)[:, None])
        else:
            parameter.data.normal_()
    module.org_forward = layer.forward
    with torch.no_grad():
        expected = module(torch.eye(48)).T
    held = module.custom_state_dict() or module.state_dict()
    start = "lycoris_layers_0_self_attn_q_proj"
    path = tmp_path / "song.safetensors"
    save_file({f"{start}.{key}": value.detach().contiguous() for key, value in held.items()}, path)
    delta = read_adapter(path).deltas["layers.0.self_attn.q_proj"]
    assert relative_error(layer.weight.detach(), expected) > 0.1
    assert relative_error(merge_into(layer.weight.detach(), delta, 1.0), expected) < 1e-6
