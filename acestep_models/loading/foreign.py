"""What a file is when it is none of ours: the sentence that saves the user a search."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ANY_LORA = r"lora_(A|B|a|b|up|down|magnitude)|lora\.(up|down)|\.lokr_|\.hada_|\.oft_|dora_scale"
_OUR_LORA = r"(self|cross)_attn[._](q|k|v|o|to_q|to_k|to_v|to_out)"

# Rows are tried in order on every key of the file; the first that any key matches speaks.
FOREIGN: tuple[tuple[str, str], ...] = (
    (
        rf"{_OUR_LORA}.*({_ANY_LORA})",
        "a LoRA for ACE-Step 1.5, not a model: put it into models/loras and apply it to a loaded model",
    ),
    (_ANY_LORA, "a LoRA of another model: it cannot be used with ACE-Step 1.5"),
    (r"speaker_embedder|genre_embedder|lyric_embs", "ACE-Step 1.0, which is another model than ACE-Step 1.5"),
    (r"^(dcae|vocoder)\.", "the sound decoder of ACE-Step 1.0: take ace_1.5_vae.safetensors"),
    (r"^pretransform\.", "a whole Stable Audio checkpoint"),
    (r"input_blocks\.\d+\.", "a Stable Diffusion UNet or checkpoint"),
    (r"^(conv_in|down_blocks\.\d+.*)\.weight$", "a Stable Diffusion UNet in diffusers' layout"),
    (r"double_blocks\.\d+\.", "a Flux model"),
    (r"joint_blocks\.\d+\.", "a Stable Diffusion 3 model"),
    (
        r"(encoder|decoder)\.conv_in\.(conv\.)?weight",
        "the VAE of an image or video model: take ace_1.5_vae.safetensors",
    ),
    (
        r"^(encoder|decoder)\.(conv1|middle)\b.*(weight|gamma)$",
        "the VAE of a video model: take ace_1.5_vae.safetensors",
    ),
    (r"block\.\d+\.layer\.\d+\.SelfAttention\.", "a T5 text encoder: ACE-Step 1.5 reads with Qwen3-Embedding-0.6B"),
    (
        r"text_model\.encoder\.layers\.|transformer\.resblocks\.",
        "a CLIP text encoder: ACE-Step 1.5 reads with Qwen3-Embedding-0.6B",
    ),
    (
        r"layers\.\d+\.self_attn\.q_proj\.weight",
        "a language model that is not Qwen3 (Llama, Qwen2, Gemma …): text encoder and planner are Qwen3",
    ),
)


def is_lora(keys: Iterable[str]) -> bool:
    """Whether any key is one of a LoRA, LoKr, LoHa, OFT or DoRA."""
    return any(re.search(_ANY_LORA, key) for key in keys)


def is_our_lora(keys: Iterable[str]) -> bool:
    """Whether any of those keys names a layer of ACE-Step 1.5."""
    return any(re.search(rf"{_OUR_LORA}.*({_ANY_LORA})", key) for key in keys)


def describe(keys: Iterable[str]) -> str | None:
    """What a file with these keys seems to be, None if nobody knows."""
    listed = list(keys)
    for pattern, what in FOREIGN:
        search = re.compile(pattern).search
        if any(search(key) for key in listed):
            return what
    return None
