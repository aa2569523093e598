"""Model files that are wrong in one way each, made out of a good tiny set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from acestep_models.loading import probe
from acestep_models.qwen3.model import Qwen3
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck

NAN = float("nan")


def write_bad_files(models: Path, tiny) -> None:
    """Write every bad file below the models folder `models`."""
    for name in ("diffusion_models", "text_encoders", "vae"):
        (models / name).mkdir(parents=True, exist_ok=True)
    _truncate(tiny.model, models / "diffusion_models/bad_turbo_truncated.safetensors")
    keys = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}
    save_file(keys, models / "diffusion_models/bad_other_model.safetensors")
    _poison(tiny.model, models / "diffusion_models/bad_turbo_nan.safetensors", "decoder.layers.0.mlp.up_proj.weight")
    _poison(
        tiny.model, models / "diffusion_models/bad_turbo_condition_nan.safetensors", "encoder.text_projector.weight"
    )
    _copy(tiny.model, models / "diffusion_models/bad_nameless.safetensors", keep_config=("is_turbo", "model_version"))
    save_file({"encoder.conv_in.weight": torch.zeros(4, 4)}, models / "vae/bad_image_vae.safetensors")
    _foreign_oobleck(models / "vae/bad_44100_vae.safetensors")
    _poison(tiny.vae, models / "vae/bad_nan_vae.safetensors", "decoder.layers.0.bias")
    _poison(tiny.text_encoder, models / "text_encoders/bad_nan_text.safetensors", "model.norm.weight")
    _wide_text_encoder(tiny.text_encoder, models / "text_encoders/bad_wide_text.safetensors")
    save_file(
        {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)},
        models / "text_encoders/bad_t5.safetensors",
    )


def _truncate(source: Path, target: Path) -> None:
    data = source.read_bytes()
    target.write_bytes(data[: len(data) * 2 // 3])


def _read(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(source, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _poison(source: Path, target: Path, key: str) -> None:
    """The same file with one number of one tensor made NaN."""
    tensors, metadata = _read(source)
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[0] = NAN
    save_file(tensors, target, metadata)


def _copy(source: Path, target: Path, keep_config: tuple[str, ...]) -> None:
    """The same file whose config does not say which variant it is."""
    tensors, metadata = _read(source)
    config = json.loads(metadata["acestep_config"])
    metadata["acestep_config"] = json.dumps({key: value for key, value in config.items() if key not in keep_config})
    save_file(tensors, target, metadata)


def _foreign_oobleck(target: Path) -> None:
    """Stable Audio's strides: 2048 samples a frame, made for 44.1 kHz."""
    small = OobleckConfig(
        downsampling_ratios=(2, 4, 4, 8, 8), channel_multiples=(1, 1, 1, 1, 1), decoder_channels=4, sampling_rate=44100
    )
    save_file({key: value.contiguous() for key, value in Oobleck(small).state_dict().items()}, target)


def _wide_text_encoder(source: Path, target: Path) -> None:
    """A Qwen3 that answers in another width than the condition encoder reads."""
    _, metadata = _read(source)
    config = replace(probe(source).config("text_encoder"), hidden_size=48)
    said = {**json.loads(metadata["acestep_config"]), "hidden_size": 48}
    tensors = {f"model.{key}": value for key, value in Qwen3(config).state_dict().items()}
    save_file(tensors, target, {**metadata, "acestep_config": json.dumps(said)})
