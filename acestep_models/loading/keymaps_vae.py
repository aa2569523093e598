"""The VAE's names: diffusers' or ComfyUI's, each with three ways to write a weight-normed convolution.

ComfyUI counts its blocks inside `layers` beside the first convolution, so these tables list every key instead of
generalising over numbers; the 48 kHz VAE has five blocks on each side (spec/audio.md §1.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from .keymaps import KeyMap

BLOCKS = 5
SNAKE = ("alpha", "beta")

# How a convolution's weight is stored -> our raw names; `weight` is already folded.
WEIGHT_STYLES: dict[str, dict[str, str]] = {
    "weight_g and weight_v": {"weight_g": "weight_g", "weight_v": "weight_v"},
    "parametrizations": {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    },
    "folded": {"weight": "weight"},
}

# diffusers' name of a module -> ComfyUI's, seen from its parent.
UNIT = {"snake1": "layers.0", "conv1": "layers.1", "snake2": "layers.2", "conv2": "layers.3"}
ENDS = {"conv1": "layers.0", "snake1": "layers.6", "conv2": "layers.7"}
BLOCK = {
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
WITHOUT_BIAS = ("decoder.conv2",)


def _modules() -> Iterator[tuple[str, str]]:
    """(diffusers' name, ComfyUI's name) of every snake and every convolution."""
    for side, block in BLOCK.items():
        yield from ((f"{side}.{name}", f"{side}.{layer}") for name, layer in ENDS.items())
        for number in range(BLOCKS):
            for name, layer in block.items():
                ours, theirs = f"{side}.block.{number}.{name}", f"{side}.layers.{number + 1}.{layer}"
                if name.startswith("res_unit"):
                    yield from ((f"{ours}.{inner}", f"{theirs}.{place}") for inner, place in UNIT.items())
                else:
                    yield ours, theirs


def _leaves(module: str, style: dict[str, str]) -> dict[str, str]:
    if "snake" in module:
        return {name: name for name in SNAKE}
    return style if module in WITHOUT_BIAS else {**style, "bias": "bias"}


def _table(comfyui: bool, style: dict[str, str]) -> KeyMap:
    return KeyMap(
        {
            f"{other if comfyui else module}.{theirs}": f"{module}.{ours}"
            for module, other in _modules()
            for theirs, ours in _leaves(module, style).items()
        }
    )


VAE_DIFFUSERS = {name: _table(False, style) for name, style in WEIGHT_STYLES.items()}
VAE_COMFYUI = {name: _table(True, style) for name, style in WEIGHT_STYLES.items()}
