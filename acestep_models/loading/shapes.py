"""Configurations read off the shapes of the tensors, completed by what the file's config JSON gives.

Shapes win where they say anything; a JSON that contradicts them is an error, since it means that two models were
mixed. What no shape shows (window, theta, epsilon, levels, variant) comes from the JSON, else it is the published
value (spec/audio.md §1.6, last paragraph).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from math import prod
from typing import Any

from ..dit.config import DiTConfig
from ..qwen3.model import Qwen3Config
from ..units import AUDIO_CHANNELS, HOP, LATENT_CHANNELS, SAMPLE_RATE
from ..vae.config import OobleckConfig

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Size = Callable[[Shapes], int]

STABLE_AUDIO_RATIOS = (2, 4, 4, 8, 8)
# What a field of a config may be: JSON may say anything, and a number of layers would be built as it is.
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "tuple[int, ...]": (list, tuple)}
KINDS |= {"bool | None": (bool, int), "str | None": (str,)}
LARGEST, MOST_LAYERS, SHOWN = 1 << 31, 1 << 10, 80
FRIENDLY_RATE = {STABLE_AUDIO_RATIOS: "the 44.1 kHz VAE of Stable Audio"}


def axis(key: str, index: int) -> Size:
    """Length of one axis of one tensor."""
    return lambda shapes: side(shapes, key, index)


def side(shapes: Shapes, key: str, index: int) -> int:
    """Length of one axis of one tensor.

    Raises:
        KeyError: if there is no such tensor.
        ValueError: if it has fewer axes, or nothing along this one, as in a damaged file.
    """
    shape = shapes[key]
    if not -len(shape) <= index < len(shape) or not shape[index]:
        raise ValueError(f"{key} has the shape {list(shape)}: the file is damaged or of another model. Fetch it again")
    return shape[index]


def per_head(key: str, norm: str) -> Size:
    """Heads of a projection: its rows, over the length of a head's norm."""
    return lambda shapes: side(shapes, key, 0) // side(shapes, norm, 0)


def count(prefix: str) -> Size:
    """One more than the largest number after a prefix; KeyError if there is none."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")

    def largest(shapes: Shapes) -> int:
        numbers = [int(match[1]) for match in map(pattern.match, shapes) if match]
        if not numbers:
            raise KeyError(prefix)
        if max(numbers) >= MOST_LAYERS:
            raise ValueError(
                f"{prefix}{max(numbers)} is no layer of such a network: the file is damaged. Fetch it again"
            )
        return max(numbers) + 1

    return largest


_SELF = "decoder.layers.0.self_attn."
_LYRIC = "encoder.lyric_encoder.layers.0."

# Field -> how the shapes of a whole upstream checkpoint show it; the first that can be read counts.
DIT_SIZES: dict[str, tuple[Size, ...]] = {
    "hidden_size": (axis("decoder.norm_out.weight", 0),),
    "num_hidden_layers": (count("decoder.layers."),),
    "num_attention_heads": (per_head(_SELF + "q_proj.weight", _SELF + "q_norm.weight"),),
    "num_key_value_heads": (per_head(_SELF + "k_proj.weight", _SELF + "k_norm.weight"),),
    "head_dim": (axis(_SELF + "q_norm.weight", 0), axis(_LYRIC + "self_attn.q_norm.weight", 0)),
    "intermediate_size": (axis("decoder.layers.0.mlp.gate_proj.weight", 0),),
    "encoder_hidden_size": (
        axis("null_condition_emb", -1),
        axis("decoder.condition_embedder.weight", 1),
        axis("tokenizer.quantizer.project_out.weight", 0),
        axis("detokenizer.norm.weight", 0),
    ),
    "encoder_intermediate_size": (axis(_LYRIC + "mlp.gate_proj.weight", 0),),
    "encoder_num_attention_heads": (per_head(_LYRIC + "self_attn.q_proj.weight", _LYRIC + "self_attn.q_norm.weight"),),
    "encoder_num_key_value_heads": (per_head(_LYRIC + "self_attn.k_proj.weight", _LYRIC + "self_attn.k_norm.weight"),),
    "in_channels": (axis("decoder.proj_in.1.weight", 1),),
    "audio_acoustic_hidden_dim": (axis("decoder.proj_out.1.weight", 1), axis("detokenizer.proj_out.weight", 0)),
    "text_hidden_dim": (axis("encoder.text_projector.weight", 1),),
    "patch_size": (axis("decoder.proj_in.1.weight", -1),),
    "num_lyric_encoder_hidden_layers": (count("encoder.lyric_encoder.layers."),),
    "num_timbre_encoder_hidden_layers": (count("encoder.timbre_encoder.layers."),),
    "num_attention_pooler_hidden_layers": (count("tokenizer.attention_pooler.layers."), count("detokenizer.layers.")),
    "pool_window_size": (axis("detokenizer.special_tokens", 1),),
    "fsq_dim": (
        axis("tokenizer.quantizer.project_out.weight", 0),
        axis("null_condition_emb", -1),
        axis("decoder.condition_embedder.weight", 1),
    ),
}
QWEN3_SIZES: dict[str, tuple[Size, ...]] = {
    "vocab_size": (axis("embed_tokens.weight", 0),),
    "hidden_size": (axis("embed_tokens.weight", 1),),
    "intermediate_size": (axis("layers.0.mlp.gate_proj.weight", 0),),
    "num_hidden_layers": (count("layers."),),
    "num_attention_heads": (per_head("layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_norm.weight"),),
    "num_key_value_heads": (per_head("layers.0.self_attn.k_proj.weight", "layers.0.self_attn.k_norm.weight"),),
    "head_dim": (axis("layers.0.self_attn.q_norm.weight", 0),),
}


def dit_config(shapes: Shapes, given: Mapping[str, Any]) -> DiTConfig:
    """The configuration of a DiT checkpoint, whole or in part.

    Args:
        shapes: upstream name (`decoder.…`, `encoder.…`, …) -> shape.
        given: config.json, may be empty.

    Raises:
        ValueError: if the JSON contradicts the shapes or asks for something that this code does not do.
    """
    _check_kinds(DiTConfig, given)
    found = _sizes(DIT_SIZES, shapes, given)
    found["fsq_input_levels"] = _levels(shapes, given)
    found["rope_theta"] = _theta(given, DiTConfig.rope_theta)
    _check_layer_types(given)
    return DiTConfig(**{**_rest(DiTConfig, given), **found})


def qwen3_config(shapes: Shapes, given: Mapping[str, Any]) -> Qwen3Config:
    """The configuration of a Qwen3 (names without `model.`); `given` as for `dit_config`."""
    _check_kinds(Qwen3Config, given)
    found = _sizes(QWEN3_SIZES, shapes, given)
    found["rope_theta"] = _theta(given, Qwen3Config.rope_theta)
    return Qwen3Config(**{**_rest(Qwen3Config, given), **found})


def oobleck_config(shapes: Shapes, given: Mapping[str, Any]) -> OobleckConfig:
    """The configuration of the VAE (diffusers' names, folded); `given` as for `dit_config`.

    Raises:
        ValueError: for an Oobleck that is not 48 kHz stereo at 25 frames of 64 channels a second.
    """
    width, decoder = side(shapes, "encoder.conv1.weight", 0), side(shapes, "decoder.conv2.weight", 1)
    blocks = range(count("encoder.block.")(shapes))
    found: dict[str, Any] = {
        "encoder_hidden_size": width,
        "downsampling_ratios": tuple(side(shapes, f"encoder.block.{i}.conv1.weight", -1) // 2 for i in blocks),
        "channel_multiples": tuple(side(shapes, f"encoder.block.{i}.conv1.weight", 0) // width for i in blocks),
        "decoder_channels": decoder,
        "decoder_input_channels": side(shapes, "decoder.conv1.weight", 1),
        "audio_channels": side(shapes, "encoder.conv1.weight", 1),
    }
    _check_oobleck(found)
    _check_given(found, given)
    rate = given.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ValueError(f"its config says {str(rate)[:SHOWN]} Hz, but a VAE with these ratios makes {SAMPLE_RATE} Hz")
    return OobleckConfig(**found, sampling_rate=rate)


def _check_oobleck(found: Mapping[str, Any]) -> None:
    ratios = found["downsampling_ratios"]
    kind = FRIENDLY_RATE.get(ratios, "a VAE of another family")
    got = (prod(ratios), found["decoder_input_channels"], found["audio_channels"])
    if got != (HOP, LATENT_CHANNELS, AUDIO_CHANNELS):
        raise ValueError(
            f"this looks like {kind}: {got[0]} samples a frame, {got[1]} latent channels, {got[2]} audio channels; "
            f"ACE-Step 1.5 needs {HOP}, {LATENT_CHANNELS} and {AUDIO_CHANNELS} (48 kHz, ratios 2 4 4 6 10, "
            "ace_1.5_vae.safetensors)"
        )


def _sizes(table: Mapping[str, tuple[Size, ...]], shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ways in table.items():
        size = _first(ways, shapes)
        if size is not None:
            found[name] = size
    _check_given(found, given)
    return found


def _first(ways: tuple[Size, ...], shapes: Shapes) -> int | None:
    for way in ways:
        try:
            return way(shapes)
        except KeyError:  # that part is not in the file
            continue
    return None


def _check_given(found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, size in found.items():
        said = given.get(name)
        if said is not None and _plain(said) != size:
            raise ValueError(
                f"its config says {name} = {str(said)[:SHOWN]}, its weights say {size}: the files of two models were "
                "mixed. Fetch config and weights from one place"
            )


def _check_kinds(config: type[Any], given: Mapping[str, Any]) -> None:
    for field in fields(config):
        value = given.get(field.name)
        if value is not None and not _is_kind(value, field.name, str(field.type)):
            raise ValueError(f"its config says {field.name} = {str(value)[:SHOWN]}: it is damaged. Fetch it again")


def _is_kind(value: Any, name: str, kind: str) -> bool:
    """Whether a field may be this, as far as building or comparing it would break on anything else."""
    if type(value) not in KINDS[kind]:
        return False
    numbers: list[Any] = [value] if kind in ("int", "float") else []
    most, wanted = MOST_LAYERS if name.endswith("_layers") else LARGEST, KINDS[kind]
    if kind.startswith("tuple"):
        numbers, most, wanted = list(value), MOST_LAYERS, (int,)
    return all(type(number) in wanted and 0 <= number < most for number in numbers)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _rest(config: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(config)}
    return {name: _plain(value) for name, value in given.items() if name in names and value is not None}


def _levels(shapes: Shapes, given: Mapping[str, Any]) -> tuple[int, ...]:
    levels = tuple(given.get("fsq_input_levels") or DiTConfig.fsq_input_levels)
    key = "tokenizer.quantizer.project_in.weight"
    rows = side(shapes, key, 0) if key in shapes else len(levels)
    if rows != len(levels):
        raise ValueError(f"its quantizer has {rows} dimensions, but there are {len(levels)} fsq_input_levels {levels}")
    return levels


def _theta(given: Mapping[str, Any], default: float) -> float:
    """transformers 5 writes `rope_parameters`, everything older `rope_theta`."""
    nested = given.get("rope_parameters") or given.get("rope_scaling") or {}
    kind = nested.get("rope_type", "default") if isinstance(nested, dict) else nested
    if kind != "default":
        raise ValueError(f"its config asks for rotary positions of type {str(kind)[:SHOWN]!r}, only 'default' is known")
    theta = given.get("rope_theta") or nested.get("rope_theta") or default
    if not _is_kind(theta, "rope_theta", "float"):
        raise ValueError(f"its config says rope_theta = {str(theta)[:SHOWN]}: it is damaged. Fetch it again")
    return float(theta)


def _check_layer_types(given: Mapping[str, Any]) -> None:
    kinds = given.get("layer_types") or []
    length = len(kinds) if isinstance(kinds, list) else 0
    expected = [("sliding_attention", "full_attention")[i % 2] for i in range(length)]
    if kinds != expected or given.get("use_sliding_window") is False:
        raise ValueError("its config has layers that are not sliding and full attention by turns, as ACE-Step 1.5 has")
