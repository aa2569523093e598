"""One set of tensors in the layouts that are published: ComfyUI's files, upstream's and diffusers' folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..loading.checkpoint import SILENCE_FILE, SILENCE_KEY, TOKENIZER_KEY
from ..loading.files import CONFIG_KEY
from ..loading.keymaps import COMPONENT, DIFFUSERS, DIT_PARTS, QWEN3, SPLIT, prefixed
from ..loading.keymaps_vae import VAE_COMFYUI, VAE_DIFFUSERS
from ..loading.roles import ROLE_KEY
from ..loading.sections import HOST_PREFIX, LM_PREFIX, TEXT_PREFIX, VAE_PREFIX
from .configs import MODEL_INDEX, SCHEDULER, TOKENIZER, diffusers_json, qwen3_json, upstream_json, vae_json
from .sizes import Sizes

State = Mapping[str, Tensor]
Named = tuple[dict[str, Tensor], dict[str, str]]  # tensors and metadata of a file
WEIGHT_STYLE = "weight_g and weight_v"
HOST_QWEN3 = prefixed("model.", QWEN3)
FORMAT = {"format": "pt"}


@dataclass(frozen=True, eq=False)
class Contents:
    """A set before it has a layout: raw states by part, sizes, and the JSON of the two tokenizers."""

    states: Mapping[str, State]
    sizes: Sizes
    tokenizers: Mapping[str, str]


def write_dit(path: Path, contents: Contents) -> None:
    """All four parts of the DiT in one file under upstream's names."""
    save(path, *_dit(contents))


def write_comfyui_vae(path: Path, contents: Contents) -> None:
    """The VAE under ComfyUI's names; its snakes are [C]."""
    save(path, *_comfyui_vae(contents))


def write_comfyui_qwen3(path: Path, contents: Contents, part: str) -> None:
    """Text encoder or planner as one file; config, role and tokenizer travel in the metadata."""
    save(path, *_comfyui_qwen3(contents, part))


def write_aio(path: Path, contents: Contents) -> None:
    """Everything in one file, as ComfyUI's checkpoints: each part's names and metadata under a prefix."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for prefix, (part, notes) in {
        HOST_PREFIX: _dit(contents),
        VAE_PREFIX: _comfyui_vae(contents),
        TEXT_PREFIX: _comfyui_qwen3(contents, "text_encoder"),
        LM_PREFIX: _comfyui_qwen3(contents, "lm"),
    }.items():
        tensors |= {prefix + key: value for key, value in part.items()}
        metadata |= {prefix + key: value for key, value in notes.items()}
    save(path, tensors, metadata)


def write_decoder(path: Path, contents: Contents) -> None:
    """The decoder alone, as ComfyUI's ModelSave writes a MODEL: no config, and a workflow in the metadata."""
    state = contents.states["decoder"]
    tensors = {HOST_PREFIX + SPLIT["decoder"].theirs(key): value for key, value in state.items()}
    save(path, tensors, {"prompt": "{}"})


def write_upstream(folder: Path, contents: Contents, silence: Tensor, shards: int = 1) -> None:
    """The DiT as its folder on the Hub; silence [1, F, 64] goes into a .pt of its own, [1, 64, F]."""
    tensors, _ = _dit(contents)
    if shards == 1:
        save(folder / "model.safetensors", tensors)
    else:
        _write_shards(folder, tensors, shards)
    _write_json(folder / "config.json", {**upstream_json(contents.sizes.decoder), "model_type": "acestep"})
    with replacing(folder / SILENCE_FILE) as temporary:
        torch.save(silence.mT.contiguous(), temporary)


def write_hub_text_encoder(folder: Path, contents: Contents) -> None:
    """The text encoder as a folder of the main repository, with its tokenizer."""
    _write_qwen3(folder, contents, "text_encoder", "Qwen3Model")
    _write_tokenizer(folder, contents.tokenizers["text_encoder"])


def write_diffusers_vae(folder: Path, contents: Contents) -> Path:
    """The VAE of a diffusers folder; returns its own folder."""
    tensors = {VAE_DIFFUSERS[WEIGHT_STYLE].theirs(key): value for key, value in contents.states["vae"].items()}
    _component(folder / "vae", tensors, vae_json(contents.sizes.vae))
    return folder / "vae"


def write_diffusers(folder: Path, contents: Contents, silence: Tensor) -> None:
    """All the rest that `AceStepPipeline.from_pretrained` reads; silence [1, F, 64] goes into the condition encoder."""
    for part, component in COMPONENT.items():
        tensors = {DIFFUSERS[part].theirs(key): value for key, value in contents.states[part].items()}
        if part == "condition":
            tensors[SILENCE_KEY] = silence
        _component(folder / component, tensors, diffusers_json(component, contents.sizes.decoder))
    _write_qwen3(folder / "text_encoder", contents, "text_encoder", "Qwen3Model")
    _write_tokenizer(folder / "tokenizer", contents.tokenizers["text_encoder"])
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_json(folder / "model_index.json", MODEL_INDEX)


def write_hub_planner(folder: Path, contents: Contents) -> None:
    """The planner as its folder on the Hub, without `model.` before the keys (spec/planner.md §1.3)."""
    _write_qwen3(folder, contents, "lm", "Qwen3ForCausalLM")
    _write_tokenizer(folder, contents.tokenizers["lm"])


def save(path: Path, tensors: State, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, flush and rename it, so that nobody meets half a file."""
    whole = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, {**FORMAT, **(metadata or {})})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write `path` under; what was written is flushed, given the usual mode and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _dit(contents: Contents) -> Named:
    tensors = {SPLIT[part].theirs(key): value for part in DIT_PARTS for key, value in contents.states[part].items()}
    return tensors, {CONFIG_KEY: json.dumps(upstream_json(contents.sizes.decoder))}


def _comfyui_vae(contents: Contents) -> Named:
    names, snakes = VAE_COMFYUI[WEIGHT_STYLE], (".alpha", ".beta")
    state = contents.states["vae"]
    tensors = {names.theirs(key): value.flatten() if key.endswith(snakes) else value for key, value in state.items()}
    return tensors, {CONFIG_KEY: json.dumps(asdict(contents.sizes.vae))}


def _comfyui_qwen3(contents: Contents, part: str) -> Named:
    tensors = {HOST_QWEN3.theirs(key): value for key, value in contents.states[part].items()}
    config = json.dumps(asdict(getattr(contents.sizes, part)))
    return tensors, {CONFIG_KEY: config, ROLE_KEY: part, TOKENIZER_KEY: contents.tokenizers[part]}


def _write_shards(folder: Path, tensors: State, count: int) -> None:
    """Neighbouring keys lie in different files, so that every part needs all of them."""
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    places = {key: names[number % count] for number, key in enumerate(sorted(tensors))}
    for name in names:
        save(folder / name, {key: tensors[key] for key, place in places.items() if place == name})
    total = sum(value.nbytes for value in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _component(folder: Path, tensors: State, config: Mapping[str, Any]) -> None:
    save(folder / "diffusion_pytorch_model.safetensors", tensors)
    _write_json(folder / "config.json", config)


def _write_qwen3(folder: Path, contents: Contents, part: str, architecture: str) -> None:
    tensors = {QWEN3.theirs(key): value for key, value in contents.states[part].items()}
    save(folder / "model.safetensors", tensors)
    _write_json(folder / "config.json", qwen3_json(getattr(contents.sizes, part), architecture, part))


def _write_tokenizer(folder: Path, text: str) -> None:
    _write_json(folder / "tokenizer_config.json", TOKENIZER)
    with replacing(folder / "tokenizer.json") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")
