#!/usr/bin/env python3
"""Write the tables of real checkpoint keys beside this file, one `name shape` a line.

    python tests/oracles/keys/make_keys.py [FOLDER]

The names and shapes come from diffusers' and transformers' own modules, built on the meta device with the
numbers of spec/audio.md §1.6 and spec/planner.md §1.1; the upstream and ComfyUI names come from the tables of
spec/audio.md §1.5, written down here a second time. Nothing of `acestep_models` is imported: these tables
exist to contradict it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

Table = dict[str, tuple[int, ...]]
HERE = Path(__file__).parent

# spec/audio.md §1.6, columns 2B and XL; the encoders are the same in both.
DECODERS = {
    "2b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "in_channels": 192,
        "audio_acoustic_hidden_dim": 64,
        "patch_size": 2,
    },
    "xl": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "in_channels": 192,
        "audio_acoustic_hidden_dim": 64,
        "patch_size": 2,
        "encoder_hidden_size": 2048,
    },
}
ENCODER = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
CONDITION = {
    "text_hidden_dim": 1024,
    "timbre_hidden_dim": 64,
    "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4,
}
CODES = {"audio_acoustic_hidden_dim": 64, "pool_window_size": 5, "num_attention_pooler_hidden_layers": 2}
FSQ = {"fsq_dim": 2048, "fsq_input_levels": [8, 8, 8, 5, 5, 5]}
VAE = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48000,
}

# spec/audio.md §1.6 (text encoder), spec/planner.md §1.1: rows, width, MLP, layers, heads; 8 key heads of 128 each.
QWEN3 = {
    "text_encoder": (151669, 1024, 3072, 28, 16),
    "lm_06b": (217204, 1024, 3072, 28, 16),
    "lm_17b": (217204, 2048, 6144, 28, 16),
    "lm_4b": (217204, 2560, 9728, 36, 32),
}
# spec/audio.md §1.3: table of a part -> its prefix in ComfyUI's all-in-one checkpoint, before bare Hub names for Qwen3.
ALL_IN_ONE = {
    "split_2b": "model.diffusion_model.",
    "vae_comfyui": "vae.",
    "text_encoder": "text_encoders.qwen3_06b.transformer.model.",
    "lm_17b": "text_encoders.qwen3_2b.transformer.model.",
}
WITHOUT_PREFIX = {"lm_17b"}  # spec/planner.md §1.3: the published 1.7B has no `model.`

# spec/audio.md §1.5, first table: diffusers attention names -> upstream.
ATTENTION = {
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out.0": "o_proj",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
PROJECTIONS = {"proj_in_conv": "proj_in.1", "proj_out_conv": "proj_out.1"}
PREFIXES = {
    "transformer": "decoder.",
    "condition_encoder": "encoder.",
    "audio_tokenizer": "tokenizer.",
    "audio_token_detokenizer": "detokenizer.",
}
ROOT_KEYS = {"null_condition_emb"}
OTHER_FILE = {"silence_latent"}

# spec/audio.md §1.5, second table: diffusers VAE names -> ComfyUI (stable-audio-tools).
VAE_ENDS = {"conv1": "layers.0", "snake1": "layers.6", "conv2": "layers.7"}
VAE_BLOCK = {
    "encoder": {
        "res_unit1": "layers.0",
        "res_unit2": "layers.1",
        "res_unit3": "layers.2",
        "snake1": "layers.3",
        "conv1": "layers.4",
    },
    "decoder": {
        "snake1": "layers.0",
        "conv_t1": "layers.1",
        "res_unit1": "layers.2",
        "res_unit2": "layers.3",
        "res_unit3": "layers.4",
    },
}
VAE_UNIT = {"snake1": "layers.0", "conv1": "layers.1", "snake2": "layers.2", "conv2": "layers.3"}


def shapes_of(build: Callable[[], torch.nn.Module]) -> Table:
    """Key -> shape of a module that is built without memory."""
    with torch.device("meta"):
        module = build()
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def diffusers_components(size: str) -> dict[str, Table]:
    """The four components of a DiT checkpoint under diffusers' names."""
    from diffusers import AceStepTransformer1DModel
    from diffusers.pipelines.ace_step import (
        AceStepAudioTokenDetokenizer,
        AceStepAudioTokenizer,
        AceStepConditionEncoder,
    )

    return {
        "transformer": shapes_of(lambda: AceStepTransformer1DModel(**DECODERS[size])),
        "condition_encoder": shapes_of(lambda: AceStepConditionEncoder(**ENCODER, **CONDITION)),
        "audio_tokenizer": shapes_of(lambda: AceStepAudioTokenizer(**ENCODER, **CODES, **FSQ)),
        "audio_token_detokenizer": shapes_of(lambda: AceStepAudioTokenDetokenizer(**ENCODER, **CODES)),
    }


def upstream_name(component: str, key: str) -> str:
    """A diffusers key under its upstream (= ComfyUI) name."""
    if key in ROOT_KEYS:
        return key
    path = f".{key}."
    for theirs, name in {**ATTENTION, **PROJECTIONS}.items():
        path = path.replace(f".{theirs}.", f".{name}.")
    return PREFIXES[component] + path[1:-1]


def split(components: dict[str, Table]) -> Table:
    """A whole checkpoint under upstream names."""
    return {
        upstream_name(component, key): shape
        for component, table in components.items()
        for key, shape in table.items()
        if key not in OTHER_FILE
    }


def diffusers_vae() -> Table:
    """The VAE as diffusers saves it: weight_g and weight_v apart."""
    from diffusers import AutoencoderOobleck

    return shapes_of(lambda: AutoencoderOobleck(**VAE))


def comfyui_vae_name(key: str) -> str:
    """A diffusers VAE key under its ComfyUI name."""
    side, *rest = key.split(".")
    if rest[0] != "block":
        return ".".join([side, VAE_ENDS[rest[0]], *rest[1:]])
    names = [side, f"layers.{int(rest[1]) + 1}", VAE_BLOCK[side][rest[2]]]
    rest = rest[3:]
    if rest[0] in VAE_UNIT:
        names.append(VAE_UNIT[rest.pop(0)])
    return ".".join([*names, *rest])


def comfyui_vae(table: Table) -> Table:
    """ComfyUI's VAE keys; its snake parameters are [C] where diffusers has [1, C, 1]."""
    out = {}
    for key, shape in table.items():
        snake = key.endswith((".alpha", ".beta"))
        out[comfyui_vae_name(key)] = shape[1:2] if snake else shape
    return out


def qwen3(name: str) -> Table:
    """A Qwen3 body (tied embeddings: no lm_head), with `model.` where the published file has it."""
    from transformers import Qwen3Config, Qwen3Model

    rows, width, mlp, layers, heads = QWEN3[name]
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
    )
    prefix = "" if name in WITHOUT_PREFIX else "model."
    return {prefix + key: shape for key, shape in shapes_of(lambda: Qwen3Model(config)).items()}


def all_tables() -> dict[str, Table]:
    """File name (without .txt) -> table. XL's encoders are those of the 2B, so only its transformer is new."""
    small, large = diffusers_components("2b"), diffusers_components("xl")
    tables = {"split_2b": split(small), "split_xl": split(large)}
    tables |= {f"diffusers_2b_{component}": table for component, table in small.items()}
    tables["diffusers_xl_transformer"] = large["transformer"]
    tables["vae_diffusers"] = diffusers_vae()
    tables["vae_comfyui"] = comfyui_vae(tables["vae_diffusers"])
    tables |= {name: qwen3(name) for name in QWEN3}
    return {**tables, "aio_2b": all_in_one(tables)}


def all_in_one(tables: dict[str, Table]) -> Table:
    """Every part of ComfyUI's checkpoint of the 2B model, with the planner of 1.7B."""
    return {
        prefix + key.removeprefix("model."): shape
        for name, prefix in ALL_IN_ONE.items()
        for key, shape in tables[name].items()
    }


def to_text(table: Table) -> str:
    """One `name 2048x192x2` a line, sorted; a scalar would be `name -`."""
    return "".join(f"{key} {'x'.join(map(str, shape)) or '-'}\n" for key, shape in sorted(table.items()))


def from_text(text: str) -> Table:
    """The inverse of `to_text`."""
    rows: Iterable[list[str]] = (line.split() for line in text.splitlines())
    return {key: tuple(int(size) for size in shape.split("x") if size != "-") for key, shape in rows}


def parameters(table: Table) -> int:
    """How many numbers the tensors of a table hold."""
    return sum(math.prod(shape) for shape in table.values())


def main() -> None:
    """Write every table and print its totals."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, table in all_tables().items():
        (folder / f"{name}.txt").write_text(to_text(table), encoding="utf-8", newline="\n")
        print(f"{name:42} {len(table):4} tensors {parameters(table):>13,} parameters")


if __name__ == "__main__":
    main()
