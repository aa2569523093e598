"""What an adapter file calls a tensor: which module of the decoder, and which part of its delta (spec/lora.md §3.1).

A key is read from both ends: its end says what the tensor is ("lora_A.default.weight"), the rest names a module, with
any number of wrappers before it, dotted or flattened, in our words or in diffusers'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..loading.keymaps import DIFFUSERS, KEYS, KeyMap

# What frameworks put before a module's name; stripped again and again, as nested wrapping repeats them (§3.4).
WRAPPERS = (
    "base_model.model.",
    "base_model.",
    "_forward_module.",
    "module.",
    "model.",
    "diffusion_model.",
    "transformer.",
    "decoder.",
)
COMPILED = "_orig_mod."  # torch.compile of a single layer puts it in the middle
FLAT_WRAPPERS = (
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    *(wrapper.replace(".", "_") for wrapper in WRAPPERS),
)
PEFT_WRAPPER = "base_model.model."

# The end of a key, after the module -> our word for that part.
LEAVES = {
    ".lora_A": "down",
    ".lora_down": "down",
    ".lora.down": "down",
    "_lora.down": "down",
    ".lora_linear_layer.down": "down",
    ".lora_B": "up",
    ".lora_up": "up",
    ".lora.up": "up",
    "_lora.up": "up",
    ".lora_linear_layer.up": "up",
    ".lora_mid": "mid",
    ".lora_magnitude_vector": "magnitude",
    ".dora_scale": "magnitude",
    ".alpha": "alpha",
    ".scalar": "scalar",
    ".diff": "diff",
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
}
_KEY = re.compile(
    rf"(?P<module>.+?)(?P<leaf>{'|'.join(map(re.escape, sorted(LEAVES, key=len, reverse=True)))})"
    r"(?:\.(?!(?:weight|bias)$)(?P<adapter>[^.]+))?(?:\.weight)?"
)

_OURS = KeyMap({key: key for key in KEYS["decoder"]})
_WEIGHT = ".weight"


def _flat(key: str) -> str:
    return key.removesuffix(_WEIGHT).replace(".", "_")


_FLAT = {
    _flat(theirs): ours.removesuffix(_WEIGHT)
    for keymap in (_OURS, DIFFUSERS["decoder"])
    for theirs, ours in keymap.table.items()
    if theirs.endswith(_WEIGHT)
}


@dataclass(frozen=True)
class Part:
    """One tensor of an adapter file.

    Attributes:
        key: its whole name in the file.
        module: what the file calls the module.
        role: which part of the delta it is, a word of LEAVES.
        adapter: PEFT's name of the adapter ("default"), None where the file has left it out.
    """

    key: str
    module: str
    role: str
    adapter: str | None


def parse_key(key: str) -> Part | None:
    """A key taken apart, None for one that belongs to no adapter."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    return Part(key, found["module"], LEAVES[found["leaf"]], found["adapter"])


def strip_wrappers(module: str) -> str:
    """A module's name without anything that frameworks put before it."""
    name = _strip(module.replace(COMPILED, ""), WRAPPERS)
    return name if "." in name else _strip(name, FLAT_WRAPPERS)


def canonical_name(module: str) -> str | None:
    """Our name of a module of the decoder, None for any other module.

    Flattened names ("layers_0_self_attn_q_proj") are looked up among the decoder's, never guessed.
    """
    name = strip_wrappers(module)
    if "." not in name:
        numbers = re.findall(r"^layers_(\d+)_", name)
        general = _FLAT.get(re.sub(r"^layers_\d+_", "layers_{}_", name), _FLAT.get(name))
        return None if general is None else general.format(*numbers)
    key = re.sub(r"\.to_out$", ".to_out.0", name) + _WEIGHT
    ours = _OURS.ours(key) or DIFFUSERS["decoder"].ours(key)
    return None if ours is None else ours.removesuffix(_WEIGHT)


def spellings(module: str) -> tuple[str, ...]:
    """The names under which a PEFT config may speak of a module: as it was wrapped, without wrappers, and ours."""
    found = (_strip(module, (PEFT_WRAPPER,)), strip_wrappers(module), canonical_name(module) or module)
    return tuple(dict.fromkeys(found))


def _strip(name: str, prefixes: tuple[str, ...]) -> str:
    while prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name
