"""Writes a set of models as acestep.cpp does: its converter (safetensors to GGUF) and its quantiser (GGUF to GGUF).

Everything goes through the `gguf` package; it cannot make the K kinds, so these are rounded here in the plainest way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

KIND = gguf.GGMLQuantizationType
NEVER = ("silence_latent", "scale_shift_table", "null_condition_emb")


@dataclass(frozen=True)
class GGUFSet:
    """The four files."""

    model: Path
    vae: Path
    text_encoder: Path
    lm: Path


def write_set(folder, upstream, kind="BF16", lm_kind=None):
    """An upstream set as four files in `folder`; `kind` is BF16 (converted only), or what it is quantised to."""
    names = {
        "dit": (upstream.model, "diffusion_models", "acestep-v15-turbo"),
        "vae": (upstream.vae, "vae", "vae"),
        "text-enc": (upstream.text_encoder, "text_encoders", "Qwen3-Embedding-0.6B"),
        "lm": (upstream.lm, "text_encoders", "acestep-5Hz-lm-1.7B"),
    }
    paths = {}
    for job, (source, category, name) in names.items():
        chosen = (lm_kind or kind) if job == "lm" else kind
        paths[job] = folder / category / f"{name}-{chosen}.gguf"
        paths[job].parent.mkdir(parents=True, exist_ok=True)
        write_model(paths[job], source, job, chosen)
    return GGUFSet(paths["dit"], paths["vae"], paths["text-enc"], paths["lm"])


def write_model(path, source, job, kind="BF16", change=None):
    """One file of one folder; `change(tensors)` may spoil the tensors first."""
    tensors = {name: value for file in sorted(source.glob("*.safetensors")) for name, value in load_file(file).items()}
    if job == "lm":
        tensors = {name if name.startswith("model.") else f"model.{name}": value for name, value in tensors.items()}
    if (source / "silence_latent.pt").is_file():
        tensors["silence_latent"] = torch.load(source / "silence_latent.pt")[0].T.contiguous()
    if change is not None:
        change(tensors)
    text = (source / "tokenizer.json").read_text(encoding="utf-8") if job in ("lm", "text-enc") else None
    write_file(path, f"acestep-{job}", tensors, (source / "config.json").read_text(encoding="utf-8"), kind, text)


def write_file(path, architecture, tensors, config, kind="BF16", tokenizer=None):
    """Tensors as they are (BF16), or quantised with the rules of acestep.cpp."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_string("acestep.config_json", json.dumps(json.loads(config), separators=(",", ":")))
    writer.add_array("acestep.fsq_input_levels", [8, 8, 8, 5, 5, 5])
    writer.add_bool("acestep.is_turbo", True)
    if tokenizer is not None:
        add_tokenizer(writer, json.loads(tokenizer))
    for name, value in sorted(tensors.items()):
        add_tensor(writer, architecture, name, value, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, given):
    """Every token by its id; the published files have the vocabulary without what was added."""
    vocabulary = {**given["model"]["vocab"], **{one["content"]: one["id"] for one in given["added_tokens"]}}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_merges([" ".join(pair) for pair in given["model"]["merges"]])


def add_tensor(writer, architecture, name, value, kind):
    if kind == "BF16":
        return add_plain(writer, name, value)
    while value.ndim > 1 and value.shape[0] == 1:  # ggml counts no sides of 1 in front
        value = value[0]
    chosen = KIND[kind_of(name, kind)]
    small = value.ndim < 2 or "vae" in architecture or any(word in name for word in NEVER)
    if small or ("text-enc" in architecture and "embed_tokens" in name):
        return add_plain(writer, name, value.float() if value.ndim < 2 else value)
    if value.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0]:
        return add_plain(writer, name, value)
    writer.add_tensor(name, quantise(value.float().numpy(), chosen), raw_dtype=chosen)


def add_plain(writer, name, value):
    if value.dtype == torch.bfloat16:
        writer.add_tensor(name, value.contiguous().view(torch.int16).numpy().view(np.uint16), raw_dtype=KIND.BF16)
    else:
        writer.add_tensor(name, value.contiguous().numpy())


def kind_of(name, kind):
    """Q4_K_M and Q5_K_M keep what matters most in Q6_K."""
    base = kind.removesuffix("_M")
    bumped = base != kind and any(word in name for word in ("v_proj.weight", "down_proj.weight", "embed_tokens"))
    return "Q6_K" if bumped else base


def quantise(rows, kind):
    """rows float32 [..., width] -> uint8 [..., bytes of a row]."""
    blocks = rows.reshape(-1, 256) if kind.name.endswith("_K") else None
    if blocks is None:
        return gguf.quants.quantize(rows, kind)
    packed = q6_k(blocks) if kind == KIND.Q6_K else q45_k(blocks, 4 if kind == KIND.Q4_K else 5)
    return packed.reshape(*rows.shape[:-1], -1)


def half(value):
    """float [N] -> its float16 numbers again in float32, and their bytes [N, 2]."""
    small = value.astype(np.float16)
    return np.maximum(small.astype(np.float32), 1e-7), small.reshape(-1, 1).view(np.uint8)


def q6_k(blocks):
    parts = blocks.reshape(-1, 16, 16)
    largest = np.abs(parts).max(-1) / 31  # [N, 16]
    scale, raw = half(largest.max(-1) / 127)
    steps = np.clip(np.round(largest / scale[:, None]), 1, 127)
    numbers = np.clip(np.round(parts / (scale[:, None] * steps)[..., None]), -32, 31).astype(np.int8) + 32
    halves = numbers.astype(np.uint8).reshape(-1, 2, 4, 32)  # of each 128: four times 32
    low = np.concatenate((halves[:, :, :2] & 15 | (halves[:, :, 2:] & 15) << 4,), axis=-1).reshape(-1, 128)
    high = sum((halves[:, :, index] >> 4) << (2 * index) for index in range(4)).astype(np.uint8).reshape(-1, 64)
    return np.concatenate((low, high, steps.astype(np.int8).view(np.uint8), raw), axis=1)


def q45_k(blocks, bits):
    parts, top = blocks.reshape(-1, 8, 32), (1 << bits) - 1
    least = np.minimum(parts.min(-1), 0)
    spread = (parts.max(-1) - least) / top  # [N, 8]
    (scale, raw), (offset, raw_offset) = half(spread.max(-1) / 63), half(-least.min(-1) / 63)
    steps = np.clip(np.round(spread / scale[:, None]), 1, 63).astype(np.uint8)
    offsets = np.clip(np.round(-least / offset[:, None]), 0, 63).astype(np.uint8)
    moved = parts + (offset[:, None] * offsets)[..., None]
    numbers = np.clip(np.round(moved / (scale[:, None] * steps)[..., None]), 0, top).astype(np.uint8)
    groups = (numbers & 15).reshape(-1, 4, 2, 32)
    low = (groups[:, :, 0] | groups[:, :, 1] << 4).reshape(-1, 128)
    six = np.concatenate(
        (
            steps[:, :4] | (steps[:, 4:] >> 4) << 6,
            offsets[:, :4] | (offsets[:, 4:] >> 4) << 6,
            (steps[:, 4:] & 15) | (offsets[:, 4:] & 15) << 4,
        ),
        axis=1,
    )
    fifth = [sum((numbers[:, index] >> 4) << index for index in range(8)).astype(np.uint8)] if bits == 5 else []
    return np.concatenate((raw, raw_offset, six, *fifth, low), axis=1).astype(np.uint8)
