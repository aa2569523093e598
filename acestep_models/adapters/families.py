"""How a file names its tensors, and what it is when it is no adapter for this decoder (spec/lora.md §3.1)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..loading.foreign import describe
from .names import canonical_name, parse_key
from .source import CAUSAL_LM

# The first row that a key matches names its family.
FAMILIES: tuple[tuple[str, str], ...] = (
    ("PEFT LoKr or LoHa", r"base_model\.model\..*\.(lokr|hada)_"),
    ("LyCORIS", r"lycoris_|.*\.(lokr|hada)_"),
    ("OneTrainer", r"lora_transformer_"),
    ("kohya", r"lora_unet_"),
    ("diffusers", r".*\.to_(q|k|v|out)\b|transformer\."),
    ("PEFT, wrapped twice", r"(base_model\.model\.){2}"),
    ("PEFT state dict", r".*\.lora_[AB]\.(?!weight$)[^.]+"),
    ("Side-Step", r"base_model\.model\..*\.lora_(down|up)\b"),
    ("PEFT", r"base_model\.model\."),
    ("ComfyUI", r"diffusion_model\.decoder\."),
    ("ComfyUI without decoder", r"diffusion_model\."),
    ("plain names", r""),
)

_LAYERS = r"(base_model\.model\.)?model\.layers\.\d+\."
_LANGUAGE_MODEL = (
    "a LoRA of a language model: it may belong to a planner or a text encoder, and adapters here change the decoder. "
    "Choose one that was trained on the DiT. If this one was, its adapter_config.json beside it settles that, with a "
    "task_type that is not CAUSAL_LM"
)

# What any key may give away at once, whatever else is in the file.
UNREADABLE: tuple[tuple[str, str], ...] = (
    (
        r"(^|[._])b?oft_(?!embed)",
        "an OFT adapter: it multiplies weights where a LoRA adds to them, and cannot be applied here. Ask its author "
        "for a LoRA, or merge it with PEFT into a checkpoint and load that",
    ),
)

_TEXT_ENCODER = r"^(lora_te\d?_|text_encoder(_\d)?\.|cond_stage_model\.|conditioner\.|text_encoders\.)"
_CONDITION = (
    r"^((base_model|model|module|diffusion_model)\.)*(encoder|tokenizer|detokenizer|condition_encoder)\."
    r"|^(lora_unet|lora_transformer|lycoris)_(encoder|tokenizer|detokenizer)_"
)
# What a file seems to be when not one of its keys is the decoder's.
ELSEWHERE: tuple[tuple[str, str], ...] = (
    (
        r"speaker_embedder|genre_embedder|lyric_(embs|proj)|transformer_blocks[._]\d+[._](attn|cross_attn)[._]",
        "a LoRA for ACE-Step 1.0, which is another model than ACE-Step 1.5: its layers have no counterpart here. "
        "Look for one that was trained on ACE-Step 1.5",
    ),
    (
        _TEXT_ENCODER,
        "a LoRA for a text encoder alone: adapters here change the decoder of the DiT. Choose one that was trained on "
        "it",
    ),
    (
        _CONDITION,
        "a LoRA for the condition encoder or the code tokenizer alone: adapters here change the decoder of the DiT. "
        "Choose one that was trained on it",
    ),
)

# Checkpoints that belong elsewhere; adapters' keys are not among them.
CHECKPOINTS: tuple[tuple[str, str], ...] = (
    (
        r"layers\.\d+\.cross_attn\.(q_proj|to_q)\.weight$",
        "a model checkpoint of ACE-Step 1.5: put it into models/diffusion_models",
    ),
    (r"embed_tokens\.weight$", "a text encoder or a planner: put it into models/text_encoders"),
    (r"\.(weight_g|beta)$", "the VAE of a music model: put it into models/vae"),
)


def family_of(keys: Iterable[str]) -> str:
    """The family that most of those keys belong to."""
    return Counter(map(_family, keys)).most_common(1)[0][0]


def is_language_model(keys: Sequence[str]) -> bool:
    """Whether these are the modules of a causal language model: they look like our decoder's without cross-attention.

    A Qwen3 of 1.7 B even has the shapes of the 2B decoder, so that only the names tell them apart.
    """
    layers = [key for key in keys if re.search(r"layers[._]\d", key)]
    return bool(layers) and all(re.match(_LAYERS, key) and "cross_attn" not in key for key in layers)


def unreadable(keys: Sequence[str], config: Mapping[str, Any]) -> str | None:
    """Why a file with these keys cannot be applied, None if it may.

    Args:
        config: PEFT's, may be empty. With a task_type it says what was trained, where the keys leave that open.
    """
    adapters = [key for key in keys if parse_key(key) is not None]
    settled = "task_type" in config and config["task_type"] != CAUSAL_LM
    return _first(UNREADABLE, keys) or (_LANGUAGE_MODEL if is_language_model(adapters) and not settled else None)


def elsewhere(keys: Sequence[str]) -> str:
    """What an adapter is that has no module of the decoder."""
    known = _first(ELSEWHERE, keys)
    return known or f"a LoRA of another model: no key names a module of ACE-Step 1.5's decoder ({_some(keys)})"


def no_adapter(keys: Sequence[str]) -> str:
    """What a file is in which no key belongs to an adapter."""
    ours = _first(CHECKPOINTS, keys)
    if ours is not None:
        return f"no LoRA but {ours} and choose it in Load DiT or Load LM"
    known = describe(keys)
    return f"no LoRA but {known}" if known else f"no LoRA: it holds nothing that adapters have ({_some(keys)})"


def why_skipped(key: str) -> str:
    """Why one key of an adapter is left out."""
    if re.search(r"\.(bias|diff_b|b_norm)$", key):
        return "changes a bias; only weights are changed"
    if re.match(_TEXT_ENCODER, key):
        return "belongs to a text encoder; only the decoder is changed"
    if re.search(_CONDITION, key):
        return "belongs to the condition encoder or the tokenizer; only the decoder is changed"
    if canonical_name(key.removesuffix(".weight")):
        return "is a whole weight, not a difference to one"
    return "names no module of the decoder, or a part that no adapter has"


def _family(key: str) -> str:
    return next(family for family, pattern in FAMILIES if re.match(pattern, key))


def _first(rows: tuple[tuple[str, str], ...], keys: Sequence[str]) -> str | None:
    return next((what for pattern, what in rows if any(re.search(pattern, key) for key in keys)), None)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
