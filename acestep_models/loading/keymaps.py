"""What every checkpoint layout calls a tensor and what we call it (spec/audio.md §1.5).

Our names are upstream's without the part's prefix; the VAE's are diffusers'. A table maps a general key of the
file to a general key of ours, where `{}` stands for a layer's number; it is one-to-one and so works both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LAYER = re.compile(r"\blayers\.(\d+)\.")

# Keys that may be in a file although no module wants them: what they hold follows from the configuration, or (silence)
# is read by `Checkpoint.silence_tensor`, (lm_head) is checked to be the embedding once more, or (scale of fp8
# inputs) is for products in fp8, which are not used.
IGNORED = re.compile(
    r"(.*\.)?rotary_emb\.(original_)?inv_freq"
    r"|(.*\.)?quantizer\.(layers\.0\.)?(scales|_levels|_basis|implicit_codebook)"
    r"|silence_latent"
    r"|(model\.)?lm_head\.weight"
    r"|(.*\.)?(scaled_fp8|scale_input|input_scale)"
)


@dataclass(frozen=True)
class KeyMap:
    """One part in one layout: general key of the file -> general key of ours."""

    table: Mapping[str, str]
    inverse: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        inverse = {ours: theirs for theirs, ours in self.table.items()}
        if len(inverse) != len(self.table):
            raise ValueError("a key map must be one-to-one")
        object.__setattr__(self, "inverse", inverse)

    def ours(self, key: str) -> str | None:
        """Our name of a key of the file, None if the layout has no such key."""
        return _translate(key, self.table)

    def theirs(self, key: str) -> str:
        """The file's name of one of our keys.

        Raises:
            KeyError: for a key that is not ours.
        """
        found = _translate(key, self.inverse)
        if found is None:
            raise KeyError(key)
        return found


def _translate(key: str, table: Mapping[str, str]) -> str | None:
    if key in table:
        return table[key]
    numbers = _LAYER.findall(key)
    target = table.get(_LAYER.sub("layers.{}.", key)) if len(numbers) == 1 else None
    return None if target is None else target.format(*numbers)


def _under(prefix: str, keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(prefix + key for key in keys)


LINEAR = ("weight", "bias")
ATTENTION = tuple(f"{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"))
MLP = tuple(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
ENCODER_LAYER = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *_under("self_attn.", ATTENTION),
    *MLP,
)
ENCODER_LAYERS = _under("layers.{}.", ENCODER_LAYER)
DECODER_LAYER = (
    "scale_shift_table",
    "self_attn_norm.weight",
    "cross_attn_norm.weight",
    "mlp_norm.weight",
    *_under("self_attn.", ATTENTION),
    *_under("cross_attn.", ATTENTION),
    *MLP,
)
TIME_EMBEDDING = tuple(f"{name}.{leaf}" for name in ("linear_1", "linear_2", "time_proj") for leaf in LINEAR)
TRANSFORMER = (*_under("embed_tokens.", LINEAR), *ENCODER_LAYERS, "norm.weight")

# Every general key of every part, in our words.
KEYS: dict[str, tuple[str, ...]] = {
    "decoder": (
        *_under("proj_in.1.", LINEAR),
        *_under("time_embed.", TIME_EMBEDDING),
        *_under("time_embed_r.", TIME_EMBEDDING),
        *_under("condition_embedder.", LINEAR),
        *_under("layers.{}.", DECODER_LAYER),
        "norm_out.weight",
        "scale_shift_table",
        *_under("proj_out.1.", LINEAR),
    ),
    "condition": (
        "text_projector.weight",
        *_under("lyric_encoder.", TRANSFORMER),
        *_under("timbre_encoder.", (*TRANSFORMER, "special_token")),
        "null_condition_emb",
    ),
    "tokenizer": (
        *_under("audio_acoustic_proj.", LINEAR),
        *_under("attention_pooler.", (*TRANSFORMER, "special_token")),
        *_under("quantizer.project_in.", LINEAR),
        *_under("quantizer.project_out.", LINEAR),
    ),
    "detokenizer": (*TRANSFORMER, "special_tokens", *_under("proj_out.", LINEAR)),
    "qwen3": ("embed_tokens.weight", *ENCODER_LAYERS, "norm.weight"),
}

DIT_PARTS = ("decoder", "condition", "tokenizer", "detokenizer")
PREFIX = {"decoder": "decoder.", "condition": "encoder.", "tokenizer": "tokenizer.", "detokenizer": "detokenizer."}
WITHOUT_PREFIX = ("null_condition_emb",)

COMPONENT = {
    "decoder": "transformer",
    "condition": "condition_encoder",
    "tokenizer": "audio_tokenizer",
    "detokenizer": "audio_token_detokenizer",
}
DIFFUSERS_WORDS = {
    ".q_proj.": ".to_q.",
    ".k_proj.": ".to_k.",
    ".v_proj.": ".to_v.",
    ".o_proj.": ".to_out.0.",
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
    "proj_in.1.": "proj_in_conv.",
    "proj_out.1.": "proj_out_conv.",
}


def canonical(part: str, key: str) -> str:
    """The name of one of our keys within a whole upstream checkpoint."""
    return key if key in WITHOUT_PREFIX else PREFIX[part] + key


def _diffusers(key: str) -> str:
    for ours, theirs in DIFFUSERS_WORDS.items():
        key = key.replace(ours, theirs)
    return key


def prefixed(prefix: str, keymap: KeyMap) -> KeyMap:
    """The same layout with something before every key."""
    return KeyMap({prefix + theirs: ours for theirs, ours in keymap.table.items()})


SPLIT = {part: KeyMap({canonical(part, key): key for key in KEYS[part]}) for part in DIT_PARTS}
DIFFUSERS = {part: KeyMap({_diffusers(key): key for key in KEYS[part]}) for part in DIT_PARTS}
QWEN3 = KeyMap({key: key for key in KEYS["qwen3"]})
