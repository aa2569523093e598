"""The key zoo: a file of every family of spec/lora.md §3.1 becomes the same adapter (test 11 of §6)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "oracles"))

import adapter_zoo as zoo

from acestep_models.adapters.files import read_adapter
from acestep_models.adapters.names import canonical_name, parse_key
from acestep_models.loading.keymaps import KEYS

RANK = 4
Q = "layers.0.self_attn.q_proj"


def check_deltas(adapter, expected):
    assert list(adapter.deltas) == sorted(expected)
    for module, matrix in expected.items():
        delta = adapter.deltas[module]
        assert delta.shape == tuple(matrix.shape)
        torch.testing.assert_close(delta.matrix().double(), matrix.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_is_the_same_lora(family, tmp_path):
    factors = zoo.low_rank(RANK)
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", zoo.spelled(family, factors)))
    check_deltas(adapter, zoo.product(factors))
    assert adapter.facts.family == zoo.FAMILIES[family][2]
    assert (len(adapter.deltas), adapter.skipped) == (22, ())
    assert (adapter.facts.ranks, adapter.facts.width) == ((RANK,), 32)
    assert {delta.kind for delta in adapter.deltas.values()} == {"lora"}
    a, b = factors[Q]
    assert torch.equal(adapter.deltas[Q].down, a) and torch.equal(adapter.deltas[Q].up, b)


def test_a_peft_folder_and_its_file_are_one(tmp_path):
    factors = zoo.low_rank(RANK)
    folder = zoo.save_peft(tmp_path / "song", zoo.spelled("peft", factors), r=RANK, lora_alpha=8)
    for path in (folder, folder / "adapter_model.safetensors"):
        adapter = read_adapter(path)
        check_deltas(adapter, zoo.product(factors, 2.0))
        assert (adapter.facts.alphas, adapter.facts.notes) == ((8.0,), ())


@pytest.mark.parametrize(
    ("width", "layers", "last"), [(2048, 24, "layers.23.cross_attn.q_proj"), (2560, 32, "layers.31.cross_attn.q_proj")]
)
def test_the_width_tells_xl_from_2b(width, layers, last, tmp_path):
    shapes = {f"layers.{layer}.cross_attn.q_proj": (layers * 128, width) for layer in range(layers)}
    tensors = zoo.spelled("kohya", zoo.low_rank(1, shapes))
    adapter = read_adapter(zoo.save(tmp_path / "xl.safetensors", tensors))
    assert adapter.facts.width == width
    assert (len(adapter.deltas), list(adapter.deltas)[-1]) == (layers, last)


@pytest.mark.parametrize(
    ("module", "width"),
    [("self_attn.o_proj", 32), ("mlp.down_proj", 32), ("cross_attn.o_proj", 32), ("mlp.up_proj", 32)],
)
def test_one_kind_of_module_is_enough_to_tell_the_width(module, width, tmp_path):
    shapes = {f"layers.0.{module}": zoo.LAYER[module]}
    path = zoo.save(tmp_path / "a.safetensors", zoo.spelled("bare", zoo.low_rank(2, shapes)))
    assert read_adapter(path).facts.width == width


@pytest.mark.parametrize("prefix", ["lycoris_layers_0_self_attn_q_proj", f"base_model.model.{Q}"])
@pytest.mark.parametrize(("whole", "rank"), [((), 2), (("w1",), 2), (("w2",), 2), (("w1", "w2"), None)])
def test_lokr(prefix, whole, rank, tmp_path):
    tensors, delta = zoo.lokr(prefix, (32, 32), 2, whole)
    tensors[f"{prefix}.alpha"] = torch.tensor(6.0)
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))
    check_deltas(adapter, {Q: delta * (1.0 if rank is None else 3.0)})
    assert (adapter.deltas[Q].kind, adapter.deltas[Q].rank) == ("lokr", rank)
    assert adapter.facts.family == ("LyCORIS" if prefix.startswith("lycoris") else "PEFT LoKr or LoHa")


def test_lokr_with_a_core(tmp_path):
    """A convolution's second side in Tucker form: sum over the core, then kron (LyCORIS, rebuild_tucker)."""
    w1, t2, a, b = zoo.noise((4, 4), 0), zoo.noise((2, 2, 3), 1), zoo.noise((2, 8), 2), zoo.noise((2, 6), 3)
    prefix = "lycoris_proj_in_1"
    tensors = {"lokr_w1": w1, "lokr_t2": t2, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    path = zoo.save(tmp_path / "a.safetensors", {f"{prefix}.{name}": tensor for name, tensor in tensors.items()})
    w2 = torch.stack([a.T.double() @ t2[:, :, tap].double() @ b.double() for tap in range(3)], -1)
    delta = torch.stack([torch.kron(w1.double(), w2[..., tap]) for tap in range(3)], -1)
    check_deltas(read_adapter(path), {"proj_in.1": delta.reshape(32, 72) / 2})


def test_loha(tmp_path):
    tensors, delta = zoo.loha("lycoris_layers_1_mlp_down_proj", (32, 64), 2)
    tensors["lycoris_layers_1_mlp_down_proj.alpha"] = torch.tensor(1.0)
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))
    check_deltas(adapter, {"layers.1.mlp.down_proj": delta / 2})
    assert adapter.deltas["layers.1.mlp.down_proj"].kind == "loha"


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("lora_magnitude_vector", (32,)),
        ("lora_magnitude_vector.weight", (32,)),
        ("lora_magnitude_vector.default.weight", (32,)),
        ("dora_scale", (32, 1)),
    ],
)
def test_dora_keeps_a_length_for_every_row(key, shape, tmp_path):
    factors = zoo.low_rank(RANK, {Q: (32, 32)})
    lengths = zoo.noise((32,), 9).abs()
    tensors = {**zoo.spelled("peft", factors), f"base_model.model.{Q}.{key}": lengths.reshape(shape)}
    folder = zoo.save_peft(tmp_path / "dora", tensors, r=RANK, lora_alpha=RANK, use_dora=True)
    delta = read_adapter(folder).deltas[Q]
    assert delta.kind == "dora"
    assert torch.equal(delta.magnitude, lengths)
    torch.testing.assert_close(delta.matrix().double(), zoo.product(factors)[Q], rtol=1e-5, atol=1e-5)


def test_dora_of_columns_is_refused_even_where_the_weight_is_square(tmp_path):
    tensors = {**zoo.spelled("bare", zoo.low_rank(RANK, {Q: (32, 32)})), f"{Q}.dora_scale": torch.ones(1, 32)}
    with pytest.raises(ValueError, match="lengths of columns, and only lengths of rows"):
        read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))


def test_kinds_may_mix_and_whole_differences_are_one(tmp_path):
    factors = zoo.low_rank(RANK, {Q: (32, 32)})
    kron, kron_delta = zoo.lokr("diffusion_model.decoder.layers.0.self_attn.o_proj", (32, 32), 2)
    hada, hada_delta = zoo.loha("diffusion_model.decoder.layers.0.mlp.up_proj", (64, 32), 2)
    diff = zoo.noise((16, 32), 5)
    tensors = {**zoo.spelled("comfyui", factors), **kron, **hada}
    tensors["diffusion_model.decoder.layers.0.cross_attn.k_proj.diff"] = diff
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))
    expected = {"layers.0.self_attn.o_proj": kron_delta, "layers.0.mlp.up_proj": hada_delta}
    check_deltas(adapter, {**zoo.product(factors), **expected, "layers.0.cross_attn.k_proj": diff})
    assert sorted(delta.kind for delta in adapter.deltas.values()) == ["full", "loha", "lokr", "lora"]
    assert adapter.facts.ranks == (2, RANK)


def test_what_is_not_the_decoders_is_named(tmp_path):
    tensors = {
        **zoo.spelled("peft", zoo.low_rank(RANK, {Q: (32, 32)})),
        "base_model.model.encoder.lyric_encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 8),
        "base_model.model.encoder.lyric_encoder.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(8, 2),
        "lora_te_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(2, 8),
        f"base_model.model.{Q}.lora_B.bias": torch.ones(32),
        "base_model.model.layers.0.mlp.up_proj.weight": torch.ones(2, 2),
        "base_model.model.layers.1.mlp.up_proj.alpha": torch.tensor(1.0),
        "step": torch.tensor(3),
    }
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))
    assert list(adapter.deltas) == [Q]
    reasons = {one.key.removeprefix("base_model.model."): one.reason for one in adapter.skipped}
    lyrics = "encoder.lyric_encoder.layers.0.self_attn.q_proj.lora_"
    assert reasons == {
        f"{lyrics}A.weight": "belongs to the condition encoder or the tokenizer; only the decoder is changed",
        f"{lyrics}B.weight": "belongs to the condition encoder or the tokenizer; only the decoder is changed",
        "lora_te_layers_0_self_attn_q_proj.lora_down.weight": "belongs to a text encoder; only the decoder is changed",
        f"{Q}.lora_B.bias": "changes a bias; only weights are changed",
        "layers.0.mlp.up_proj.weight": "is a whole weight, not a difference to one",
        "layers.1.mlp.up_proj.alpha": "an alpha without anything to scale",
        "step": "names no module of the decoder, or a part that no adapter has",
    }


def test_every_weight_of_the_decoder_has_one_name_in_every_spelling():
    modules = [key.removesuffix(".weight").format(31) for key in KEYS["decoder"] if key.endswith(".weight")]
    assert len(modules) == 28
    for module in modules:
        flat = module.replace(".", "_")
        spellings = (module, f"model.decoder.{module}", f"lora_unet_decoder_{flat}", f"lycoris_{flat}")
        assert {canonical_name(name) for name in spellings} == {module}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("transformer.layers.3.cross_attn.to_out.0", "layers.3.cross_attn.o_proj"),
        ("transformer.layers.3.cross_attn.to_out", "layers.3.cross_attn.o_proj"),
        ("transformer.proj_in_conv", "proj_in.1"),
        ("lora_transformer_proj_out_conv", "proj_out.1"),
        ("lora_unet_time_embed_r_linear_1", "time_embed_r.linear_1"),
        ("decoder.condition_embedder", "condition_embedder"),
        ("layers.3.self_attn.norm_q", "layers.3.self_attn.q_norm"),
        ("tokenizer.attention_pooler.layers.0.self_attn.q_proj", None),
        ("detokenizer.layers.0.self_attn.q_proj", None),
        ("lora_unet_encoder_lyric_encoder_layers_0_self_attn_q_proj", None),
        ("layers.0.self_attn.qkv", None),
        ("layers_0", None),
    ],
)
def test_names(theirs, ours):
    assert canonical_name(theirs) == ours


def test_a_key_is_taken_apart():
    part = parse_key("base_model.model.x.lora_A.my_voice.weight")
    assert (part.module, part.role, part.adapter) == ("base_model.model.x", "down", "my_voice")
    assert parse_key("x.lora_A.bias") is None
    assert parse_key("x.weight") is None


def test_what_a_file_says_of_itself(tmp_path):
    metadata = {"base_variant": "turbo", "custom_tag": "mellow", "tag_position": "prepend", "conditioning": "silence"}
    path = zoo.save(tmp_path / "a.safetensors", zoo.spelled("bare", zoo.low_rank()), metadata)
    facts = read_adapter(path).facts
    assert facts.metadata == metadata
    assert (facts.base_variant, facts.trigger, facts.trigger_position) == ("turbo", "mellow", "prepend")
    assert facts.conditioning == "silence"


def test_tensors_keep_their_dtype_and_are_read_at_once(tmp_path):
    factors = {module: (a.bfloat16(), b.bfloat16()) for module, (a, b) in zoo.low_rank().items()}
    path = zoo.save(tmp_path / "a.safetensors", zoo.spelled("bare", factors))
    adapter = read_adapter(path)
    path.unlink()
    assert torch.equal(adapter.deltas[Q].down, factors[Q][0])
    assert adapter.deltas[Q].matrix().dtype == torch.float32
