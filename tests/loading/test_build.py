"""Networks from files: exact values, strictness, sharding, dtypes, memory mapping."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep_models.loading import build_part, load_state, probe
from acestep_models.ops import Ops
from acestep_models.vae.fold import fold_weight_norm

PARTS = ("decoder", "condition", "tokenizer", "detokenizer")


@pytest.fixture
def rewrite(tmp_path):
    """rewrite(path, change) -> a copy of a safetensors file whose tensors `change` edited in place."""

    def copy(path, change, name="changed.safetensors"):
        tensors = load_file(path)
        change(tensors)
        with safe_open(path, framework="pt") as file:
            save_file(tensors, tmp_path / name, file.metadata())
        return tmp_path / name

    return copy


def test_every_tensor_arrives_unchanged(tiny_2b_split):
    stored, checkpoint = load_file(tiny_2b_split.model), probe(tiny_2b_split.model)
    names = {"decoder": "decoder.", "condition": "encoder.", "tokenizer": "tokenizer.", "detokenizer": "detokenizer."}
    arrived = set()
    for part, prefix in names.items():
        module = build_part(checkpoint, part, dtype=torch.float32)
        assert not module.training and not any(p.requires_grad for p in module.parameters())
        for key, value in module.state_dict().items():
            theirs = key if key == "null_condition_emb" else prefix + key
            assert torch.equal(value, stored[theirs]), theirs
            arrived.add(theirs)
    assert arrived == set(stored)


def test_weight_norm_is_folded_and_snakes_reshaped(tiny_2b_split):
    stored = load_file(tiny_2b_split.vae)
    state = load_state(probe(tiny_2b_split.vae), "vae", torch.float32)
    v, g = stored["decoder.layers.1.layers.1.weight_v"], stored["decoder.layers.1.layers.1.weight_g"]
    expected = torch._weight_norm(v, g, 0)
    assert torch.allclose(state["decoder.block.0.conv_t1.weight"], expected, rtol=1e-6, atol=0)
    assert torch.equal(state["encoder.snake1.alpha"], stored["encoder.layers.6.alpha"][None, :, None])
    assert not any("weight_" in key for key in state)


def test_folding_happens_before_the_cast(tiny_2b_split):
    checkpoint = probe(tiny_2b_split.vae)
    half, full = load_state(checkpoint, "vae", torch.bfloat16), load_state(checkpoint, "vae", torch.float32)
    assert all(torch.equal(half[key], full[key].bfloat16()) for key in full)


@pytest.mark.parametrize("style", ["parametrizations", "folded"])
def test_other_ways_to_store_a_convolution(tiny_2b_split, rewrite, style):
    def change(tensors):
        for key in [key for key in tensors if key.endswith(".weight_g")]:
            base = key.removesuffix("weight_g")
            g, v = tensors.pop(key), tensors.pop(base + "weight_v")
            if style == "folded":
                tensors[base + "weight"] = fold_weight_norm(g, v)
            else:
                tensors[base + "parametrizations.weight.original0"] = g
                tensors[base + "parametrizations.weight.original1"] = v

    changed = load_state(probe(rewrite(tiny_2b_split.vae, change)), "vae", torch.float32)
    original = load_state(probe(tiny_2b_split.vae), "vae", torch.float32)
    assert changed.keys() == original.keys()
    assert all(torch.equal(changed[key], original[key]) for key in original)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files(tiny_2b_split, rewrite, stored):
    def change(tensors):
        tensors.update({key: value.to(stored) for key, value in tensors.items()})

    checkpoint, original = probe(rewrite(tiny_2b_split.model, change)), load_file(tiny_2b_split.model)
    assert checkpoint.dtypes("decoder") == {stored}
    module = build_part(checkpoint, "decoder", dtype=torch.float32)
    assert torch.equal(module.norm_out.weight, original["decoder.norm_out.weight"].to(stored).float())


def test_weights_of_the_wanted_dtype_are_mapped_not_read(tiny_2b_split):
    """In memory the tensors lie as far from each other as in the file."""
    raw = tiny_2b_split.model.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    state = load_state(probe(tiny_2b_split.model), "decoder", torch.float32)
    starts = {key: header[f"decoder.{key}"]["data_offsets"][0] for key in state}
    assert len({value.data_ptr() - starts[key] for key, value in state.items()}) == 1


def test_shards_are_one_model(tiny_xl_split, tmp_path):
    tensors = load_file(tiny_xl_split.model)
    keys, names = sorted(tensors), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = dict(zip(names, (keys[::2], keys[1::2]), strict=True))
    for name, half in halves.items():
        save_file({key: tensors[key] for key in half}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, half in halves.items() for key in half}}))
    (tmp_path / "config.json").write_text(json.dumps(dict(probe(tiny_xl_split.model).given)))
    for path in (tmp_path, index):
        checkpoint = probe(path)
        assert checkpoint.config("decoder") == probe(tiny_xl_split.model).config("decoder")
        for part in PARTS:
            module = build_part(checkpoint, part, dtype=torch.float32)
            expected = load_state(probe(tiny_xl_split.model), part, torch.float32)
            assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())
    (tmp_path / names[1]).unlink()
    with pytest.raises(ValueError, match=rf"1 of 2 parts are missing \({names[1]}\)"):
        probe(tmp_path)


def test_prefix_of_the_host(tiny_2b_split, rewrite):
    def change(tensors):
        for key in list(tensors):
            tensors[f"model.diffusion_model.{key}"] = tensors.pop(key)

    path = rewrite(tiny_2b_split.model, change)
    expected = load_state(probe(tiny_2b_split.model), "condition", torch.float32)
    state = load_state(probe(path), "condition", torch.float32)
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)


def test_missing_and_wrong_tensors_are_named(tiny_2b_split, rewrite):
    def change(tensors):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            del tensors[f"decoder.layers.2.self_attn.{name}.weight"]
        tensors["decoder.layers.1.mlp.up_proj.weight"] = torch.zeros(7, 64)

    path = rewrite(tiny_2b_split.model, change)
    with pytest.raises(ValueError) as error:
        build_part(probe(path), "decoder", dtype=torch.float32)
    message = str(error.value)
    assert message.startswith(f"{path}: the decoder does not fit. Missing (4): layers.2.self_attn.k_proj.weight, ")
    assert "Wrong shape (1): layers.1.mlp.up_proj.weight is [7, 64], expected [128, 64]. " in message
    assert "fetch the published file" in message
    assert build_part(probe(path), "condition", dtype=torch.float32) is not None


def test_no_more_than_five_keys_are_listed(tiny_2b_split, rewrite):
    def change(tensors):
        for key in [key for key in tensors if key.startswith("decoder.layers.1.")]:
            del tensors[key]

    with pytest.raises(ValueError, match=r"Missing \(19\): (layers\.1\.[\w.]+, ){4}layers\.1\.[\w.]+ …"):
        build_part(probe(rewrite(tiny_2b_split.model, change)), "decoder", dtype=torch.float32)


def test_half_of_a_weight_norm(tiny_2b_split, rewrite):
    path = rewrite(tiny_2b_split.vae, lambda tensors: tensors.pop("decoder.layers.0.weight_g"))
    with pytest.raises(ValueError, match=r"only one half \(weight_g or weight_v\) of decoder\.conv1\.weight"):
        build_part(probe(path), "vae", dtype=torch.float32)


def test_decoder_half_of_a_vae(tiny_2b_split, rewrite):
    def change(tensors):
        for key in [key for key in tensors if key.startswith("encoder.")]:
            del tensors[key]

    with pytest.raises(ValueError, match=r"the vae has no tensor 'encoder\.conv1\.weight': the file is incomplete"):
        probe(rewrite(tiny_2b_split.vae, change))


def test_head_must_be_the_embedding_once_more(tiny_2b_split, rewrite):
    def tied(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    def untied(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    module = build_part(probe(rewrite(tiny_2b_split.lm, tied)), "lm", dtype=torch.float32)
    expected = load_state(probe(tiny_2b_split.lm), "lm", torch.float32)["embed_tokens.weight"]
    assert torch.equal(module.embed_tokens.weight, expected)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        build_part(probe(rewrite(tiny_2b_split.lm, untied)), "lm", dtype=torch.float32)


def test_text_encoder_of_another_width_in_a_folder(tiny_2b_diffusers, tmp_path):
    for folder in ("transformer", "condition_encoder", "text_encoder"):
        (tmp_path / folder).mkdir()
        for file in (tiny_2b_diffusers.model / folder).iterdir():
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    wide = {key: torch.cat([value, value], dim=-1) for key, value in tensors.items() if "proj" not in key}
    save_file(tensors | wide, path)
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="the text encoder is 64 wide, the condition encoder reads 32"):
        probe(tmp_path)


def test_a_folder_with_components_swapped(tiny_2b_diffusers, tmp_path):
    sources = {"transformer": "transformer", "condition_encoder": "audio_tokenizer"}
    for target, source in sources.items():
        (tmp_path / target).mkdir()
        for file in (tiny_2b_diffusers.model / source).iterdir():
            (tmp_path / target / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"expected the condition_encoder of ACE-Step 1\.5, got tokenizer"):
        probe(tmp_path)


def test_truncated_model(tiny_2b_split, tmp_path):
    path = tmp_path / "cut.safetensors"
    whole = tiny_2b_split.model.read_bytes()
    path.write_bytes(whole[:-1000])
    expected = f"{path}: the file is cut off: it has {len(whole) - 1000:,} bytes, its header promises {len(whole):,}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        probe(path)


def test_a_folder_may_be_named_by_its_index(tiny_2b_diffusers):
    checkpoint = probe(tiny_2b_diffusers.model / "model_index.json")
    assert checkpoint.parts == {*PARTS, "vae", "text_encoder"} and checkpoint.layout == "diffusers"


class LazyLinear(torch.nn.Module):
    """A layer of newer hosts with dynamic memory: no weight exists until one is loaded."""

    def __init__(self, inputs, outputs, bias=True, device=None, dtype=None):
        super().__init__()
        self.weight = self.bias = None

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
        for name in ("weight", "bias"):
            if prefix + name in state:
                setattr(self, name, torch.nn.Parameter(state[prefix + name], requires_grad=False))


@pytest.mark.parametrize("part", PARTS)
def test_layers_that_are_empty_before_loading_are_filled(tiny_2b_split, part):
    checkpoint = probe(tiny_2b_split.model)
    lazy = build_part(checkpoint, part, ops=Ops(Linear=LazyLinear), dtype=torch.float32).state_dict()
    plain = build_part(checkpoint, part, dtype=torch.float32).state_dict()
    assert lazy.keys() == plain.keys()
    assert all(torch.equal(lazy[key], plain[key]) for key in plain)


def test_layers_that_are_empty_before_loading_are_checked_all_the_same(tiny_2b_split, rewrite):
    file = rewrite(tiny_2b_split.model, lambda tensors: tensors.pop("decoder.layers.0.mlp.up_proj.weight"))
    with pytest.raises(ValueError, match=r"Missing \(1\): layers.0.mlp.up_proj.weight"):
        build_part(probe(file), "decoder", ops=Ops(Linear=LazyLinear), dtype=torch.float32)
