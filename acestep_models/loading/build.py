"""From a recognised checkpoint to a network: built on meta, weights mapped into memory, nothing missing or over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..dit.codes import AudioDetokenizer, AudioTokenizer
from ..dit.condition import ConditionEncoder
from ..dit.transformer import DiT
from ..ops import META, TORCH_OPS, Ops
from ..qwen3.model import Qwen3
from ..vae.fold import fold_weight_norm
from ..vae.oobleck import Oobleck
from .checkpoint import Checkpoint, is_gain, module_shape, read_tensor
from .files import Entry
from .header import Shape

NETWORKS: dict[str, type[Any]] = {
    "decoder": DiT,
    "condition": ConditionEncoder,
    "tokenizer": AudioTokenizer,
    "detokenizer": AudioDetokenizer,
    "vae": Oobleck,
    "text_encoder": Qwen3,
    "lm": Qwen3,
}
HEAD_KEY, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
HEAD_ROWS = 64
SHOWN_KEYS = 5


def build_part(checkpoint: Checkpoint, part: str, *, ops: Ops = TORCH_OPS, dtype: torch.dtype) -> Any:
    """The network of one part with its weights, in `dtype`, on the CPU, without gradients, in eval mode.

    Returns:
        DiT, ConditionEncoder, AudioTokenizer, AudioDetokenizer, Oobleck or Qwen3.

    Raises:
        ValueError: if the checkpoint lacks the part, or a tensor is missing, left over or of another shape.
    """
    module = build_empty(checkpoint, part, ops=ops, dtype=dtype)
    check_state(checkpoint, part)
    module.load_state_dict(load_state(checkpoint, part, dtype), strict=True, assign=True)
    return module.eval().requires_grad_(False)


def build_empty(checkpoint: Checkpoint, part: str, *, ops: Ops = TORCH_OPS, dtype: torch.dtype) -> nn.Module:
    """The network of one part on the meta device: shapes only."""
    module: nn.Module = NETWORKS[part](checkpoint.config(part), ops=ops, device=META, dtype=dtype)
    return module


def check_state(checkpoint: Checkpoint, part: str) -> None:
    """Raises a ValueError unless the checkpoint has exactly the tensors that the part's network wants.

    Asked of a network of torch's own layers: those of newer hosts have no weights before they are loaded.
    """
    plain = build_empty(checkpoint, part, dtype=torch.float32)
    wanted = {key: tuple(value.shape) for key, value in plain.state_dict().items()}
    got = checkpoint.shapes(part)
    shapes = {key: (got[key], wanted[key]) for key in wanted.keys() & got.keys() if got[key] != wanted[key]}
    missing, unexpected = wanted.keys() - got.keys(), got.keys() - wanted.keys()
    if missing or unexpected or shapes:
        raise ValueError(
            f"{checkpoint.path}: the {part} does not fit. {_differences(missing, unexpected, shapes)}"
            "The file is incomplete, changed, or put together from different models: fetch the published file."
        )
    _check_gains(checkpoint, part)


def load_state(checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor of a part under our names, in `dtype`; mapped into memory where the file has that dtype already.

    Weight norm is folded (in fp32), the VAE's snakes are [1, C, 1].
    """
    source = checkpoint.sources[part]
    _check_head(source.files.entries)
    raw = _read(source.entries)
    state = {}
    for key, tensor in raw.items():
        if is_gain(key):
            continue
        if key.endswith(".weight_v"):
            tensor = fold_weight_norm(raw[key.removesuffix("_v") + "_g"], tensor)
        name, shape = module_shape(key, tuple(tensor.shape))
        state[name] = tensor.reshape(shape).to(dtype)
    return state


def _read(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Our raw name -> tensor; each file is opened once."""
    by_file = defaultdict(list)
    for key, entry in entries.items():
        by_file[entry.path].append((key, entry.key))
    tensors = {}
    for path, pairs in by_file.items():
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors.update({key: file.get_tensor(theirs) for key, theirs in pairs})
    return tensors


def _check_gains(checkpoint: Checkpoint, part: str) -> None:
    """Folding needs both halves of every weight norm."""
    entries = checkpoint.sources[part].entries
    halves = [key[:-2] for key in entries if key.endswith((".weight_g", ".weight_v"))]
    single = sorted(key for key in set(halves) if halves.count(key) == 1)
    if single:
        raise ValueError(
            f"{checkpoint.path}: the {part} has only one half (weight_g or weight_v) of {_some(single)}. "
            "The file is incomplete: fetch it again."
        )


def _check_head(entries: Mapping[str, Entry]) -> None:
    """A head in the file may only be the embedding once more (spec/planner.md §1.3); a few rows tell."""
    for prefix in ("", "model."):
        head, table = entries.get(HEAD_KEY), entries.get(prefix + EMBEDDING)
        if head is None or table is None:
            continue
        same = head.shape == table.shape and torch.equal(
            read_tensor(head)[-HEAD_ROWS:], read_tensor(table)[-HEAD_ROWS:]
        )
        if not same:
            raise ValueError(
                f"{head.path}: {HEAD_KEY} differs from {table.key}. The planner of ACE-Step 1.5 uses one table for "
                "both; this is another language model or a changed one: fetch the published file."
            )


def _differences(missing: Iterable[str], unexpected: Iterable[str], shapes: Mapping[str, tuple[Shape, Shape]]) -> str:
    wrong = [f"{key} is {list(got)}, expected {list(want)}" for key, (got, want) in sorted(shapes.items())]
    rows = (("Missing", sorted(missing)), ("Left over", sorted(unexpected)), ("Wrong shape", wrong))
    return "".join(f"{title} ({len(keys)}): {_some(keys)}. " for title, keys in rows if keys)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (" …" if len(keys) > SHOWN_KEYS else "")
