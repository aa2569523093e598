"""Adapter files of every family, written from the tables of spec/lora.md §3.1 and §3.2 and never by our code.

`P` is a module of the decoder in upstream's words. What a family calls it is spelled out here once more, so that a slip
in the pack's own tables shows.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

# A decoder of two layers with a width of 32, two heads of 16 for queries and one for keys: module -> (out, in).
LAYER = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "cross_attn.q_proj": (32, 32),
    "cross_attn.k_proj": (16, 32),
    "cross_attn.v_proj": (16, 32),
    "cross_attn.o_proj": (32, 32),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}
MODULES = {f"layers.{layer}.{name}": shape for layer in (0, 1) for name, shape in LAYER.items()}
TO_DIFFUSERS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0"}

AB = ("lora_A.weight", "lora_B.weight")
DOWN_UP = ("lora_down.weight", "lora_up.weight")


def diffusers_name(module: str) -> str:
    start, last = module.rsplit(".", 1)
    return f"{start}.{TO_DIFFUSERS.get(last, last)}"


def flat(module: str) -> str:
    return module.replace(".", "_")


# Name -> (what stands for P, the ends of both halves, what we call the family).
FAMILIES = {
    "peft": (lambda p: f"base_model.model.{p}", AB, "PEFT"),
    "peft_decoder": (lambda p: f"base_model.model.decoder.{p}", AB, "PEFT"),
    "peft_default": (
        lambda p: f"base_model.model.{p}",
        ("lora_A.default.weight", "lora_B.default.weight"),
        "PEFT state dict",
    ),
    "nested": (lambda p: f"base_model.model.base_model.model.{p}", AB, "PEFT, wrapped twice"),
    "wrapped": (lambda p: f"_forward_module.module.decoder._orig_mod.{p}", AB, "plain names"),
    "compiled_layers": (lambda p: p.replace("_attn.", "_attn._orig_mod."), AB, "plain names"),
    "side_step": (lambda p: f"base_model.model.{p}", DOWN_UP, "Side-Step"),
    "comfyui": (lambda p: f"diffusion_model.decoder.{p}", DOWN_UP, "ComfyUI"),
    "no_decoder": (lambda p: f"diffusion_model.{p}", AB, "ComfyUI without decoder"),
    "bare": (lambda p: p, AB, "plain names"),
    "bare_halves": (lambda p: p, ("lora_A", "lora_B"), "plain names"),
    "dotted_halves": (lambda p: p, ("lora.down.weight", "lora.up.weight"), "plain names"),
    "kohya": (lambda p: f"lora_unet_decoder_{flat(p)}", DOWN_UP, "kohya"),
    "kohya_no_decoder": (lambda p: f"lora_unet_{flat(p)}", DOWN_UP, "kohya"),
    "kohya_diffusers": (lambda p: f"lora_unet_{flat(diffusers_name(p))}", DOWN_UP, "kohya"),
    "onetrainer": (lambda p: f"lora_transformer_{flat(p)}", DOWN_UP, "OneTrainer"),
    "lycoris_lora": (lambda p: f"lycoris_{flat(p)}", DOWN_UP, "LyCORIS"),
    "diffusers": (lambda p: f"transformer.{diffusers_name(p)}", AB, "diffusers"),
}


def noise(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(rank=4, modules=None):
    """P -> (A [rank, in], B [out, rank])."""
    shapes = modules or MODULES
    return {
        module: (noise((rank, shape[1]), 2 * at), noise((shape[0], rank), 2 * at + 1))
        for at, (module, shape) in enumerate(shapes.items())
    }


def spelled(family, factors):
    """The tensors of a LoRA in one family, without alphas."""
    name, (down, up), _ = FAMILIES[family]
    return {
        key: tensor
        for module, (a, b) in factors.items()
        for key, tensor in ((f"{name(module)}.{down}", a), (f"{name(module)}.{up}", b))
    }


def alphas(family, modules, value):
    """One `.alpha` beside each module."""
    return {f"{FAMILIES[family][0](module)}.alpha": value for module in modules}


def product(factors, scale=1.0):
    """P -> the matrix that a LoRA adds."""
    return {module: scale * (b.double() @ a.double()) for module, (a, b) in factors.items()}


def lokr(module, shape, rank, whole=()):
    """(tensors, delta at scale 1): out = 4 · rest, in = 4 · rest; `whole` names the sides that are not factored."""
    left, right = (4, 4), (shape[0] // 4, shape[1] // 4)
    tensors, sides = {}, []
    for at, (name, size) in enumerate((("w1", left), ("w2", right))):
        if name in whole:
            tensors[f"{module}.lokr_{name}"] = noise(size, at)
            sides.append(noise(size, at))
            continue
        a, b = noise((size[0], rank), 10 + at), noise((rank, size[1]), 20 + at)
        tensors |= {f"{module}.lokr_{name}_a": a, f"{module}.lokr_{name}_b": b}
        sides.append(a @ b)
    w1, w2 = sides
    # kron by its definition: row i1 * size + i2, column j1 * size + j2
    delta = torch.einsum("ij,kl->ikjl", w1.double(), w2.double()).reshape(shape)
    return tensors, delta


def loha(module, shape, rank):
    """(tensors, delta at scale 1)."""
    halves = {
        name: noise((shape[0], rank) if name.endswith("a") else (rank, shape[1]), 30 + at)
        for at, name in enumerate(("w1_a", "w1_b", "w2_a", "w2_b"))
    }
    first, second = halves["w1_a"] @ halves["w1_b"], halves["w2_a"] @ halves["w2_b"]
    return {f"{module}.hada_{name}": half for name, half in halves.items()}, first.double() * second.double()


def save(path: Path, tensors, metadata=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path


def save_peft(folder: Path, tensors, **config) -> Path:
    """A PEFT folder; `config` is what adapter_config.json says besides its type."""
    save(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}), encoding="utf-8")
    return folder
