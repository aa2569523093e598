"""What is no adapter for this decoder: each says what it is and what to do (spec/lora.md §3.1, §3.3)."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "oracles"))

import adapter_zoo as zoo

from acestep_models.adapters.files import read_adapter

Q = "layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
ONE = zoo.spelled("bare", zoo.low_rank(4, {Q: (32, 32)}))
PAIR = (torch.ones(2, 8), torch.ones(8, 2))


def pair(module, ends=zoo.AB):
    return {f"{module}.{end}": tensor for end, tensor in zip(ends, PAIR, strict=True)}


def check_refused(path, message, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        read_adapter(path, **kwargs)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).rstrip().endswith(".")


FOREIGN = {
    "ACE 1.0, diffusers": (pair("transformer_blocks.0.cross_attn.to_q"), "a LoRA for ACE-Step 1.0"),
    "ACE 1.0, PEFT": (pair("base_model.model.transformer_blocks.3.attn.to_k"), "a LoRA for ACE-Step 1.0"),
    "ACE 1.0, speaker": (pair("speaker_embedder"), "a LoRA for ACE-Step 1.0"),
    "ACE 1.0, kohya": (
        pair("lora_unet_transformer_blocks_0_cross_attn_to_q", zoo.DOWN_UP),
        "a LoRA for ACE-Step 1.0",
    ),
    "OFT": ({f"base_model.model.{Q}.oft_R.weight": torch.ones(2, 2)}, "an OFT adapter: it multiplies"),
    "OFT, LyCORIS": ({f"lycoris_{zoo.flat(Q)}.oft_blocks": torch.ones(2, 2, 2)}, "an OFT adapter"),
    "OFT beside a LoRA": ({**ONE, "x.oft_diag": torch.ones(2)}, "an OFT adapter"),
    "text encoder": (pair("lora_te_layers_0_self_attn_q_proj", zoo.DOWN_UP), "a LoRA for a text encoder alone"),
    "text encoder, diffusers": (pair("text_encoder.layers.0.self_attn.q_proj"), "a LoRA for a text encoder alone"),
    "condition encoder": (
        pair("base_model.model.encoder.lyric_encoder.layers.0.self_attn.q_proj"),
        "a LoRA for the condition encoder",
    ),
    "condition encoder, kohya": (
        pair("lora_unet_encoder_lyric_encoder_layers_0_self_attn_q_proj", zoo.DOWN_UP),
        "a LoRA for the condition encoder",
    ),
    "planner": (pair("base_model.model.model.layers.0.self_attn.q_proj"), "a LoRA of a language model"),
    "Flux": (pair("lora_unet_double_blocks_0_img_attn_qkv", zoo.DOWN_UP), "a LoRA of another model: no key names"),
    "a checkpoint of ours": (
        {"decoder.layers.0.cross_attn.q_proj.weight": torch.ones(8, 8)},
        "no LoRA but a model checkpoint of ACE-Step 1.5: put it into models/diffusion_models",
    ),
    "a checkpoint of Flux": ({"double_blocks.0.img_attn.qkv.weight": torch.ones(8, 8)}, "no LoRA but a Flux model"),
    "anything": ({"foo": torch.ones(2)}, r"no LoRA: it holds nothing that adapters have \(foo\)"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_files(case, tmp_path):
    tensors, message = FOREIGN[case]
    check_refused(zoo.save(tmp_path / "a.safetensors", tensors), f"this is {message}")


def test_cross_attention_tells_the_decoder_from_a_language_model(tmp_path):
    tensors = {
        key: tensor
        for part in ("self", "cross")
        for key, tensor in pair(f"base_model.model.model.layers.0.{part}_attn.q_proj").items()
    }
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))
    assert list(adapter.deltas) == ["layers.0.cross_attn.q_proj", Q]


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        ("split_2b", "diffusion_models"),
        ("split_xl", "diffusion_models"),
        ("aio_2b", "diffusion_models"),
        ("diffusers_2b_transformer", "diffusion_models"),
        ("text_encoder", "text_encoders"),
        ("lm_17b", "text_encoders"),
        ("vae_comfyui", "vae"),
        ("vae_diffusers", "vae"),
    ],
)
def test_real_checkpoints(table, folder, tmp_path):
    lines = (Path(zoo.__file__).parent / "keys" / f"{table}.txt").read_text(encoding="utf-8").splitlines()
    tensors = {line.split()[0]: torch.zeros(1) for line in lines}
    check_refused(
        zoo.save(tmp_path / "a.safetensors", tensors), f"this is no LoRA but .*: put it into models/{folder} and"
    )


DAMAGED = {
    "half a LoRA": ({A: ONE[A]}, f"{Q}: half a pair: up missing beside down"),
    "the other half": ({B: ONE[B]}, f"{Q}: half a pair: down missing beside up"),
    "half a LoKr": ({f"{Q}.lokr_w1": torch.ones(2, 2), f"{Q}.lokr_w2_a": torch.ones(2, 2)}, "lokr_w2_b missing"),
    "half a LoHa": ({f"{Q}.hada_w1_a": torch.ones(2, 2), f"{Q}.hada_w1_b": torch.ones(2, 2)}, "hada_w2_a and hada_w2"),
    "magnitudes alone": ({f"{Q}.dora_scale": torch.ones(8, 1)}, "nothing but magnitude, expected one kind"),
    "two kinds at once": ({**ONE, f"{Q}.lokr_w1": torch.ones(2, 2)}, "lokr and lora, expected one kind"),
    "two adapters": ({**ONE, f"{Q}.lora_A.other.weight": ONE[A]}, "more than one adapter"),
    "two spellings": ({**ONE, f"decoder.{A}": ONE[A]}, "more than one adapter"),
    "NaN": ({A: ONE[A], B: torch.full((32, 4), math.nan)}, "lora_B.weight holds NaN or infinity"),
    "infinity in bf16": ({A: torch.full((4, 32), math.inf).bfloat16(), B: ONE[B]}, "lora_A.weight holds NaN or"),
    "ranks that differ": ({A: torch.ones(3, 32), B: torch.ones(32, 4)}, f"{Q}: the two halves"),
    "magnitudes of another": ({**ONE, f"{Q}.dora_scale": torch.ones(16, 1)}, r"\[16, 1\], expected \[32\]"),
    "no numbers": ({A: torch.ones(0, 32), B: torch.ones(32, 0)}, r"is empty \(\[0, 32\]\)"),
    "integers": ({A: torch.ones(4, 32, dtype=torch.int8), B: ONE[B]}, "holds torch.int8, expected floating point"),
    "a Tucker core": ({**ONE, f"{Q}.lora_mid.weight": torch.ones(4, 4)}, "Tucker decomposition"),
    "a LoRA of numbers": ({A: torch.tensor(1.0), B: torch.tensor(1.0)}, f"{Q}: the two halves"),
    "a LoKr of vectors": ({f"{Q}.lokr_w1": torch.ones(4), f"{Q}.lokr_w2": torch.ones(8, 8)}, "factors of a LoKr"),
    "a LoKr of numbers": ({f"{Q}.lokr_w1": torch.ones(4, 4), f"{Q}.lokr_w2": torch.tensor(1.0)}, "factors of a LoKr"),
    "a core of another LoKr": (
        {
            f"{Q}.lokr_w1": torch.ones(4, 4),
            f"{Q}.lokr_w2_a": torch.ones(2, 8),
            f"{Q}.lokr_w2_b": torch.ones(2, 8),
            f"{Q}.lokr_t2": torch.ones(3, 2, 1),
        },
        r"around t2 \[3, 2, 1\]",
    ),
    "a LoHa of two sizes": (
        {
            f"{Q}.hada_w1_a": torch.ones(32, 2),
            f"{Q}.hada_w1_b": torch.ones(2, 32),
            f"{Q}.hada_w2_a": torch.ones(32, 2),
            f"{Q}.hada_w2_b": torch.ones(2, 1),
        },
        "of one size",
    ),
    "cores of two sizes": (
        {f"{Q}.hada_w{side}_{half}": torch.ones(2, 32) for side in (1, 2) for half in "ab"}
        | {f"{Q}.hada_t1": torch.ones(2, 2, 1), f"{Q}.hada_t2": torch.ones(2, 2)},
        "around t1 and t2",
    ),
    "a number as a difference": ({f"{Q}.diff": torch.tensor(1.0)}, "one number"),
    "a number as magnitudes": ({**ONE, f"{Q}.dora_scale": torch.tensor(1.0)}, r"\[\], expected \[32\]"),
    "nothing": ({}, "the file holds no tensors"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(case, tmp_path):
    tensors, message = DAMAGED[case]
    check_refused(zoo.save(tmp_path / "a.safetensors", tensors), message)


def test_what_only_the_body_shows_is_damage_too(tmp_path):
    """A header that promises eight numbers in sixteen bytes: its length is right, its content is not."""
    header = {key: {"dtype": "F32", "shape": [8, 1], "data_offsets": [at, at + 16]} for key, at in ((A, 0), (B, 16))}
    raw = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(32))
    check_refused(path, "the file is damaged")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_never_opened(suffix, tmp_path):
    path = tmp_path / f"adapter_model{suffix}"
    path.write_bytes(b"PK\x03\x04 anything")
    message = "this is a pickle; those can run code and are not read"
    check_refused(path, message)
    with pytest.raises(ValueError, match=message):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(60), "it is a PyTorch pickle"),
        (b"\x80\x02ctorch" + bytes(60), "it is a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    ],
)
def test_other_things_under_the_name(content, message, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    check_refused(path, message)


def test_a_missing_file_is_named(tmp_path):
    check_refused(tmp_path / "gone.safetensors", "there is no such file")


def test_folders(tmp_path):
    check_refused(tmp_path, "no adapter_model.safetensors in this folder")
    zoo.save(tmp_path / "one.safetensors", ONE)
    assert list(read_adapter(tmp_path).deltas) == [Q]
    zoo.save(tmp_path / "two.safetensors", ONE)
    check_refused(tmp_path, "holds 2 files and no adapter_model.safetensors")


def test_a_config_is_not_taken_from_a_neighbour(tmp_path):
    zoo.save_peft(tmp_path, ONE, r=4, lora_alpha=64)
    other = read_adapter(zoo.save(tmp_path / "other.safetensors", ONE))
    assert other.deltas[Q].scale == 1.0
    assert "adapter_config.json beside it was not used" in other.facts.notes[0]
    assert read_adapter(tmp_path).deltas[Q].scale == 16.0


@pytest.mark.parametrize("neighbour", ["b.safetensors", "b.sft", "b.SAFETENSORS"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.sft", "a.SAFETENSORS"])
def test_a_config_is_a_files_own_only_where_it_lies_alone(name, neighbour, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8}), encoding="utf-8")
    path = zoo.save(tmp_path / name, ONE)
    assert read_adapter(path).deltas[Q].scale == 2.0
    zoo.save(tmp_path / neighbour, ONE)
    assert read_adapter(path).deltas[Q].scale == 1.0


def test_a_file_that_is_no_weight_file_takes_no_neighbours_config(tmp_path):
    folder = zoo.save_peft(tmp_path, ONE, lora_alpha=8)
    (folder / "adapter_model.safetensors").rename(folder / "b.safetensors")
    other = zoo.save(folder / "a.weights", ONE)
    assert read_adapter(other).deltas[Q].scale == 1.0


def test_a_task_type_settles_what_the_keys_leave_open(tmp_path):
    tensors = pair("base_model.model.model.layers.0.self_attn.q_proj")
    folder = zoo.save_peft(tmp_path, tensors, r=2, lora_alpha=2, task_type=None)
    assert list(read_adapter(folder).deltas) == [Q]
    for config in ({}, {"task_type": "CAUSAL_LM"}):
        zoo.save_peft(tmp_path, tensors, r=2, lora_alpha=2, **config)
        with pytest.raises(ValueError, match="task_type"):
            read_adapter(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "OFT"}, "an adapter of the type 'OFT'"),
        ({"peft_type": "IA3"}, "an adapter of the type 'IA3'; LORA, LOKR, LOHA can be applied"),
        ({"task_type": "CAUSAL_LM"}, "a LoRA of a language model"),
    ],
)
def test_configs_of_something_else(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_adapter(zoo.save_peft(tmp_path, ONE, **config))


@pytest.mark.parametrize(("text", "message"), [("{", "the config is not JSON"), ("[]", "no JSON object but list")])
def test_damaged_configs(text, message, tmp_path):
    folder = zoo.save_peft(tmp_path, ONE)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_adapter(folder)


def test_a_damaged_header_is_not_overlooked(tmp_path):
    path = zoo.save(tmp_path / "a.safetensors", ONE, {"lora_adapter_metadata": "{"})
    check_refused(path, "lora_adapter_metadata in the header is not JSON")


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"init_lora_weights": "pissa_niter_16"}, "training began with pissa_niter_16, which changes the base weights"),
        ({"use_dora": True}, "its config says DoRA, but the file has no magnitudes"),
    ],
)
def test_what_a_config_makes_doubtful_is_noted(config, note, tmp_path):
    adapter = read_adapter(zoo.save_peft(tmp_path, ONE, r=4, lora_alpha=4, **config))
    assert [one.startswith(note) for one in adapter.facts.notes] == [True]


def test_a_config_with_a_byte_order_mark(tmp_path):
    folder = zoo.save_peft(tmp_path, ONE)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8}), encoding="utf-8-sig")
    assert read_adapter(folder).deltas[Q].scale == 2.0
