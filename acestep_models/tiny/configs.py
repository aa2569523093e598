"""config.json of every component, in upstream's, diffusers' and transformers' words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..dit.config import DiTConfig
from ..qwen3.model import Qwen3Config
from ..vae.config import OobleckConfig
from .tokens import END_OF_TEXT, SPECIAL


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_COMMON = _same("head_dim", "rope_theta", "rms_norm_eps", "sliding_window")
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_ENCODER = {**_COMMON, **{name: f"encoder_{name}" for name in _SIZES}}
_CODES = {**_ENCODER, **_same("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers")}

# Folder -> class in diffusers, and its field -> the field of DiTConfig.
COMPONENTS: dict[str, tuple[str, dict[str, str]]] = {
    "transformer": (
        "AceStepTransformer1DModel",
        {
            **_COMMON,
            **_same(*_SIZES, "num_hidden_layers", "in_channels", "audio_acoustic_hidden_dim", "patch_size"),
            **_same("encoder_hidden_size", "is_turbo", "model_version"),
        },
    ),
    "condition_encoder": (
        "AceStepConditionEncoder",
        {
            **_ENCODER,
            **_same("text_hidden_dim", "num_lyric_encoder_hidden_layers", "num_timbre_encoder_hidden_layers"),
            "timbre_hidden_dim": "audio_acoustic_hidden_dim",
        },
    ),
    "audio_tokenizer": ("AceStepAudioTokenizer", {**_CODES, **_same("fsq_dim", "fsq_input_levels")}),
    "audio_token_detokenizer": ("AceStepAudioTokenDetokenizer", _CODES),
}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1, "shift": 1.0}
MODEL_INDEX = {
    "_class_name": "AceStepPipeline",
    "vae": ["diffusers", "AutoencoderOobleck"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "AceStepTransformer1DModel"],
    "condition_encoder": ["ace_step", "AceStepConditionEncoder"],
    "audio_tokenizer": ["ace_step", "AceStepAudioTokenizer"],
    "audio_token_detokenizer": ["ace_step", "AceStepAudioTokenDetokenizer"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": SPECIAL[2],
    "pad_token": END_OF_TEXT,
    "model_max_length": 32768,
}


def upstream_json(config: DiTConfig) -> dict[str, Any]:
    """As upstream writes it: the encoder's own sizes only where its width differs from the decoder's."""
    fields = asdict(config)
    if not config.timbre_special_token:
        fields = {name: value for name, value in fields.items() if not name.startswith("encoder_")}
    kinds = ("sliding_attention", "full_attention")
    return {**fields, "layer_types": [kinds[number % 2] for number in range(config.num_hidden_layers)]}


def diffusers_json(component: str, config: DiTConfig) -> dict[str, Any]:
    """As diffusers writes it for one of its four components of the DiT."""
    name, table = COMPONENTS[component]
    fields: Mapping[str, Any] = asdict(config)
    return {"_class_name": name, **{theirs: fields[ours] for theirs, ours in table.items()}}


def vae_json(config: OobleckConfig) -> dict[str, Any]:
    """As diffusers writes it."""
    return {"_class_name": "AutoencoderOobleck", **asdict(config)}


def qwen3_json(config: Qwen3Config, architecture: str, role: str) -> dict[str, Any]:
    """As transformers writes it, and what the network is for, which its size does not tell."""
    fixed = {
        "architectures": [architecture],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "acestep_role": role,
    }
    return {**fixed, **asdict(config)}
