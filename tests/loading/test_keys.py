"""The tables of real keys: made again, compared, counted, and consumed by the loader to the last key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep_models.dit.config import XL, DiTConfig
from acestep_models.loading.build import build_empty, check_state
from acestep_models.loading.files import Files
from acestep_models.loading.formats import recognise, recognise_folder
from acestep_models.loading.header import Header
from acestep_models.qwen3.model import LM_06B, LM_4B, LM_17B, TEXT_ENCODER
from acestep_models.vae.config import OobleckConfig

KEYS = Path(__file__).resolve().parents[1] / "oracles" / "keys"
DIT_PARTS = {"decoder", "condition", "tokenizer", "detokenizer"}
FOLDERS = ("transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer")
HOST = "model.diffusion_model."
TURBO = {"is_turbo": True, "model_version": "turbo"}


def check_parts(checkpoint, parts):
    """Every part, built on meta, finds each of its keys exactly once and with its own shape."""
    assert checkpoint.parts == parts
    for part in parts:
        module = build_empty(checkpoint, part, dtype=torch.bfloat16)
        check_state(checkpoint, part)
        assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == checkpoint.shapes(part)


def consumed(checkpoint):
    """The keys of the files that some part took, as a sorted list."""
    return sorted(entry.key for part in checkpoint.sources.values() for entry in part.entries.values())


def test_tables_are_what_the_libraries_say(make_keys):
    made = make_keys.all_tables()
    assert {path.stem for path in KEYS.glob("*.txt")} == set(made)
    for name, table in made.items():
        assert make_keys.to_text(table) == (KEYS / f"{name}.txt").read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("split_2b", 677, 2_393_872_518),
        ("split_xl", 829, 4_987_310_726),
        ("diffusers_2b_transformer", 476, 1_575_458_880),
        ("diffusers_xl_transformer", 628, 4_168_897_088),
        ("diffusers_2b_condition_encoder", 142, 608_369_664 + 15_000 * 64),  # and the silence
        ("diffusers_2b_audio_tokenizer", 32, 105_032_198),
        ("diffusers_2b_audio_token_detokenizer", 28, 105_011_776),
        ("vae_diffusers", 365, 168_695_426),
        ("vae_comfyui", 365, 168_695_426),
        ("aio_2b", 677 + 365 + 310 + 310, 2_393_872_518 + 168_695_426 + 595_776_512 + 3_708_487_680 // 2),
        ("lm_06b", 310, 1_325_768_704 // 2),
        ("lm_17b", 310, 3_708_487_680 // 2),
        ("lm_4b", 398, 8_379_108_352 // 2),
    ],
)
def test_totals(make_keys, committed, name, tensors, parameters):
    table = committed(name)
    assert (len(table), make_keys.parameters(table)) == (tensors, parameters)


def test_characteristic_shapes(committed):
    small, large, vae = committed("split_2b"), committed("split_xl"), committed("vae_diffusers")
    assert small["decoder.proj_in.1.weight"] == (2048, 192, 2)
    assert large["decoder.proj_in.1.weight"] == (2560, 192, 2)
    assert small["decoder.proj_out.1.weight"] == (2048, 64, 2)
    assert large["decoder.time_embed.time_proj.weight"] == (15360, 2560)
    assert large["decoder.layers.31.self_attn.q_proj.weight"] == (4096, 2560)
    assert large["decoder.layers.0.cross_attn.o_proj.weight"] == (2560, 4096)
    assert large["decoder.condition_embedder.weight"] == (2560, 2048)
    assert small["tokenizer.quantizer.project_in.weight"] == (6, 2048)
    assert vae["encoder.conv2.weight_v"] == (128, 2048, 3)
    assert vae["decoder.block.0.conv_t1.weight_v"] == (2048, 1024, 20)
    assert "decoder.conv2.bias" not in vae
    assert committed("vae_comfyui")["decoder.layers.2.layers.1.weight_v"][-1] == 12
    assert committed("vae_comfyui")["decoder.layers.1.layers.0.beta"] == (2048,)


@pytest.mark.parametrize(("name", "config"), [("split_2b", DiTConfig()), ("split_xl", XL)])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_split_file(committed, fake_files, name, config, prefix):
    table = {prefix + key: shape for key, shape in committed(name).items()}
    checkpoint = recognise(Path("fake.safetensors"), fake_files(table, given=TURBO))
    check_parts(checkpoint, DIT_PARTS)
    assert checkpoint.config("decoder") == replace(config, is_turbo=True, model_version="turbo")
    assert checkpoint.layout == "split" and consumed(checkpoint) == sorted(table)


@pytest.mark.parametrize(("size", "planner"), [("2b", "qwen3_2b"), ("2b", "qwen3_4b"), ("xl", "qwen3_2b")])
def test_all_in_one(committed, fake_files, size, planner):
    table = committed("aio_2b")
    if size == "xl":
        table = {key: shape for key, shape in table.items() if not key.startswith(HOST)}
        table |= {HOST + key: shape for key, shape in committed("split_xl").items()}
    if planner == "qwen3_4b":
        table = {key: shape for key, shape in table.items() if "qwen3_2b" not in key}
        table |= {
            f"text_encoders.qwen3_4b.transformer.model.{key.removeprefix('model.')}": shape
            for key, shape in committed("lm_4b").items()
        }
    wrapped = {**table, "text_encoders.qwen3_06b.logit_scale": (), f"text_encoders.{planner}.logit_scale": ()}
    checkpoint = recognise(Path("aio.safetensors"), fake_files(wrapped))
    check_parts(checkpoint, DIT_PARTS | {"vae", "text_encoder", "lm"})
    assert checkpoint.layout == "aio" and consumed(checkpoint) == sorted(table)
    assert checkpoint.config("decoder") == (XL if size == "xl" else DiTConfig())
    assert checkpoint.config("text_encoder") == TEXT_ENCODER and checkpoint.config("vae") == OobleckConfig()
    assert checkpoint.config("lm") == (LM_4B if planner == "qwen3_4b" else LM_17B)


@pytest.mark.parametrize(("name", "config"), [("split_2b", DiTConfig()), ("split_xl", XL)])
def test_decoder_as_the_host_saves_it(committed, fake_files, name, config):
    """ModelSave: the decoder under the host's prefix, a workflow in the metadata, no config."""
    whole = {HOST + key: shape for key, shape in committed(name).items()}
    table = {key: shape for key, shape in whole.items() if key.startswith(f"{HOST}decoder.")}
    checkpoint = recognise(Path("saved.safetensors"), fake_files(table, metadata={"prompt": "{}"}))
    check_parts(checkpoint, {"decoder"})
    assert consumed(checkpoint) == sorted(table) and checkpoint.config("decoder") == config
    other = recognise(Path("whole.safetensors"), fake_files(whole, given=TURBO))
    assert checkpoint.completed(other).config("decoder") == config


@pytest.mark.parametrize(("name", "config"), [("split_2b", DiTConfig()), ("split_xl", XL)])
def test_upstream_shards(committed, name, config):
    """Four files, cut anywhere; the config beside them as upstream writes it."""
    table = committed(name)
    keys = sorted(table)
    cuts = [keys[number * len(keys) // 4 : (number + 1) * len(keys) // 4] for number in range(4)]
    headers = tuple(
        Header(Path(f"model-{number}.safetensors"), {key: table[key] for key in cut}, dict.fromkeys(cut, "F32"), {})
        for number, cut in enumerate(cuts, 1)
    )
    checkpoint = recognise(Path("folder"), Files(Path("folder/model.safetensors.index.json"), headers, TURBO))
    check_parts(checkpoint, DIT_PARTS)
    assert checkpoint.config("decoder") == replace(config, is_turbo=True, model_version="turbo")
    assert checkpoint.layout == "upstream" and consumed(checkpoint) == keys


@pytest.mark.parametrize(("size", "config"), [("2b", DiTConfig()), ("xl", XL)])
def test_diffusers_folder(committed, fake_files, size, config):
    tables = {folder: committed(f"diffusers_2b_{folder}") for folder in FOLDERS}
    tables["transformer"] = committed(f"diffusers_{size}_transformer")
    tables["vae"] = committed("vae_diffusers")
    tables["text_encoder"] = {k.removeprefix("model."): shape for k, shape in committed("text_encoder").items()}
    files = {folder: fake_files(table, path=folder) for folder, table in tables.items()}
    checkpoint = recognise_folder(Path("fake"), files)
    check_parts(checkpoint, DIT_PARTS | {"vae", "text_encoder"})
    assert checkpoint.config("condition") == config
    everything = sorted(key for table in tables.values() for key in table if key != "silence_latent")
    assert checkpoint.layout == "diffusers" and consumed(checkpoint) == everything


@pytest.mark.parametrize("name", ["vae_diffusers", "vae_comfyui"])
@pytest.mark.parametrize("leaves", [("weight_g", "weight_v"), ("weight.original0", "weight.original1")])
def test_vae(committed, fake_files, name, leaves):
    gain, direction = (leaf if leaf.startswith("weight_") else f"parametrizations.{leaf}" for leaf in leaves)
    table = {k.replace("weight_g", gain).replace("weight_v", direction): s for k, s in committed(name).items()}
    checkpoint = recognise(Path("vae.safetensors"), fake_files(table))
    check_parts(checkpoint, {"vae"})
    assert checkpoint.config("vae") == OobleckConfig()
    assert consumed(checkpoint) == sorted(table)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(
    ("name", "part", "config"),
    [
        ("text_encoder", "text_encoder", TEXT_ENCODER),
        ("lm_06b", "lm", LM_06B),
        ("lm_17b", "lm", LM_17B),
        ("lm_4b", "lm", LM_4B),
    ],
)
def test_qwen3(committed, fake_files, name, part, config, prefix):
    table = {prefix + key.removeprefix("model."): shape for key, shape in committed(name).items()}
    checkpoint = recognise(Path("qwen.safetensors"), fake_files(table))
    check_parts(checkpoint, {part})
    assert checkpoint.config(part) == config
    assert consumed(checkpoint) == sorted(table)
