"""Key tables: one-to-one, the same both ways, and complete over every real key."""

from __future__ import annotations

import pytest

from acestep_models.loading.formats import FORMATS
from acestep_models.loading.keymaps import DIFFUSERS, DIT_PARTS, QWEN3, SPLIT, KeyMap, canonical
from acestep_models.loading.keymaps_vae import VAE_COMFYUI, VAE_DIFFUSERS

STYLE = "weight_g and weight_v"
MAPS = [(row.name, part, keymap) for row in FORMATS for part, keymap in row.parts.items()]


@pytest.mark.parametrize(("name", "part", "keymap"), MAPS, ids=[f"{name}-{part}" for name, part, _ in MAPS])
def test_tables_work_both_ways(name, part, keymap):
    assert len(set(keymap.table.values())) == len(keymap.table) > 0
    for general in keymap.table:
        for number in (0, 7, 31):
            theirs = general.format(number)
            ours = keymap.ours(theirs)
            assert ours is not None and keymap.theirs(ours) == theirs


def test_formats_have_markers_of_their_own():
    markers = [marker for row in FORMATS for marker in row.markers]
    assert len(set(markers)) == len(markers)
    for row in FORMATS:
        for marker in row.markers:
            assert any(keymap.ours(marker) for keymap in row.parts.values()), marker


def test_a_table_that_is_not_one_to_one_is_refused():
    with pytest.raises(ValueError, match="one-to-one"):
        KeyMap({"a": "x", "b": "x"})


def test_unknown_keys_have_no_name():
    assert SPLIT["decoder"].ours("decoder.layers.0.self_attn.q_proj.scale") is None
    assert SPLIT["decoder"].ours("decoder.layers.x.mlp_norm.weight") is None
    with pytest.raises(KeyError, match="nothing"):
        SPLIT["decoder"].theirs("nothing")


@pytest.mark.parametrize(
    ("keymap", "theirs", "ours"),
    [
        (DIFFUSERS["decoder"], "proj_in_conv.bias", "proj_in.1.bias"),
        (DIFFUSERS["decoder"], "layers.23.cross_attn.to_out.0.weight", "layers.23.cross_attn.o_proj.weight"),
        (DIFFUSERS["decoder"], "layers.3.self_attn.norm_k.weight", "layers.3.self_attn.k_norm.weight"),
        (SPLIT["condition"], "null_condition_emb", "null_condition_emb"),
        (SPLIT["condition"], "encoder.timbre_encoder.special_token", "timbre_encoder.special_token"),
        (SPLIT["tokenizer"], "tokenizer.quantizer.project_in.bias", "quantizer.project_in.bias"),
        (QWEN3, "layers.27.mlp.up_proj.weight", "layers.27.mlp.up_proj.weight"),
        (VAE_COMFYUI[STYLE], "decoder.layers.1.layers.1.weight_v", "decoder.block.0.conv_t1.weight_v"),
        (VAE_COMFYUI[STYLE], "encoder.layers.5.layers.2.layers.3.bias", "encoder.block.4.res_unit3.conv2.bias"),
        (VAE_COMFYUI[STYLE], "decoder.layers.5.layers.4.layers.0.beta", "decoder.block.4.res_unit3.snake1.beta"),
        (VAE_COMFYUI[STYLE], "decoder.layers.6.alpha", "decoder.snake1.alpha"),
        (
            VAE_COMFYUI["parametrizations"],
            "encoder.layers.7.parametrizations.weight.original1",
            "encoder.conv2.weight_v",
        ),
        (VAE_DIFFUSERS["folded"], "decoder.conv2.weight", "decoder.conv2.weight"),
    ],
)
def test_examples(keymap, theirs, ours):
    assert keymap.ours(theirs) == ours
    assert keymap.theirs(ours) == theirs


def test_split_and_diffusers_agree_with_the_independent_renaming(make_keys, committed):
    """Our two tables composed are the renaming of `make_keys`, which was written apart from them."""
    parts = dict(zip(DIT_PARTS, make_keys.PREFIXES, strict=True))
    for part, component in parts.items():
        for key in committed(f"diffusers_2b_{component}"):
            if key != "silence_latent":
                assert canonical(part, DIFFUSERS[part].ours(key)) == make_keys.upstream_name(component, key)


def test_vae_names_agree_with_the_independent_renaming(make_keys, committed):
    for key in committed("vae_diffusers"):
        assert VAE_COMFYUI[STYLE].ours(make_keys.comfyui_vae_name(key)) == VAE_DIFFUSERS[STYLE].ours(key)
