"""From a recognised checkpoint to a network: built on meta, weights mapped into memory, nothing missing or over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..dit.codes import AudioDetokenizer, AudioTokenizer
from ..dit.condition import ConditionEncoder
from ..dit.transformer import DiT
from ..ops import META, TORCH_OPS, Ops
from ..qwen3.model import Qwen3
from ..vae.fold import fold_weight_norm
from ..vae.oobleck import Oobleck
from .blocks import BLOCKS, unblock
from .checkpoint import Checkpoint, is_gain, module_shape
from .files import Entry
from .header import Shape
from .packed import EIGHT_BITS, Packing, pack_layers, pack_weight, rows_of
from .tensors import read_tensor, read_tensors

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
NEAR = 0.2  # relative; the coarsest blocks that are read are 0.1 off


def build_part(
    checkpoint: Checkpoint,
    part: str,
    *,
    ops: Ops = TORCH_OPS,
    dtype: torch.dtype,
    packing: Packing | None = None,
) -> Any:
    """The network of one part with its weights, in `dtype`, on the CPU, without gradients, in eval mode.

    `packing` keeps the large matrices in eight bits or as the file has them; without it, all become `dtype`.

    Returns:
        DiT, ConditionEncoder, AudioTokenizer, AudioDetokenizer, Oobleck or Qwen3.

    Raises:
        ValueError: if the checkpoint lacks the part, or a tensor is missing, left over or of another shape.
    """
    module = build_empty(checkpoint, part, ops=ops, dtype=dtype)
    check_state(checkpoint, part)
    fill(module, checkpoint, part, dtype, packing)
    return module.eval().requires_grad_(False)


def fill(
    module: nn.Module, checkpoint: Checkpoint, part: str, dtype: torch.dtype, packing: Packing | None = None
) -> None:
    """Give a part's network on meta its weights; the arguments are those of `build_part`."""
    if packing is not None:
        pack_layers(module, part, packing, checkpoint.packed_in_file(part))
    module.load_state_dict(load_state(checkpoint, part, dtype, packing), strict=True, assign=True)


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


def load_state(
    checkpoint: Checkpoint, part: str, dtype: torch.dtype, packing: Packing | None = None
) -> dict[str, Tensor]:
    """Every tensor of a part under our names, in `dtype`; mapped into memory where the file has that dtype already.

    Weight norm is folded (in fp32), the VAE's snakes are [1, C, 1], numbers of eight bits are multiplied by their
    scales, blocks are decoded. What `packing` wants is packed: as the file has it, or made of the file's own numbers.
    """
    source, in_file = checkpoint.sources[part], checkpoint.packed_in_file(part)
    _check_head(source.files.entries)
    raw, scales = read_tensors(source.entries), read_tensors(source.scales)
    state: dict[str, Tensor] = {}
    for key, tensor in raw.items():
        layer = key.removesuffix(".weight")
        try:
            if packing is not None and layer != key and packing.wants(part, layer, in_file):
                in_blocks = in_file.get(layer) in BLOCKS
                state |= {key: tensor} if in_blocks else pack_weight(layer, tensor, scales.get(layer))
            elif not is_gain(key):
                tensor = _plain(source.entries[key], tensor, dtype)
                gain = raw.get(key.removesuffix("_v") + "_g") if key.endswith(".weight_v") else None
                name, value = _whole(key, tensor, scales.get(layer), gain)
                state[name] = value.to(dtype)
        except ValueError as error:
            raise ValueError(f"{checkpoint.path}: {key} of the {part}: {error}. Choose another file.") from error
    return state


def _whole(key: str, tensor: Tensor, scale: Tensor | None, gain: Tensor | None) -> tuple[str, Tensor]:
    """Our name of a raw tensor, and its numbers in the shape of the module: scaled, weight norm folded."""
    value = _unpacked(tensor, scale)
    if gain is not None:
        value = fold_weight_norm(_unpacked(gain), value)
    name, shape = module_shape(key, tuple(value.shape))
    return name, value.reshape(shape)


def _unpacked(tensor: Tensor, scale: Tensor | None = None) -> Tensor:
    """The numbers that a tensor of a file stands for."""
    if scale is None and tensor.dtype not in EIGHT_BITS:
        return tensor
    return tensor.float() * rows_of(scale, tensor).view(-1, *(1,) * (tensor.ndim - 1))  # [out, 1, ...]


def _plain(entry: Entry, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What a file has in blocks as numbers in `dtype`; any other tensor as it is."""
    block = BLOCKS.get(entry.dtype)
    return tensor if block is None else unblock(tensor, block, dtype).view(-1, *entry.shape[1:])


def _check_gains(checkpoint: Checkpoint, part: str) -> None:
    """Folding needs both halves of every weight norm, and a length for each row."""
    entries = checkpoint.sources[part].entries
    halves = [key[:-2] for key in entries if key.endswith((".weight_g", ".weight_v"))]
    single = sorted(key for key in set(halves) if halves.count(key) == 1)
    if single:
        raise ValueError(
            f"{checkpoint.path}: the {part} has only one half (weight_g or weight_v) of {_some(single)}. "
            "The file is incomplete: fetch it again."
        )
    shapes = {key: (entry.shape, entries[f"{key[:-1]}v"].shape) for key, entry in entries.items() if is_gain(key)}
    odd = sorted(f"{key} {list(got)}" for key, (got, weight) in shapes.items() if got != _one_a_row(weight))
    if odd:
        raise ValueError(
            f"{checkpoint.path}: the {part} has lengths that are not one for each row: {_some(odd)}. "
            "The file is damaged or changed: fetch the published file."
        )


def _one_a_row(weight: Shape) -> Shape:
    return (*weight[:1], *(1 for _ in weight[1:]))


def _check_head(entries: Mapping[str, Entry]) -> None:
    """A head in the file may only be the embedding once more (spec/planner.md §1.3); a few rows tell."""
    for prefix in ("", "model."):
        head, table = entries.get(HEAD_KEY) or entries.get(prefix + HEAD_KEY), entries.get(prefix + EMBEDDING)
        if head is not None and table is not None and not _same_rows(head, table):
            raise ValueError(
                f"{head.path}: {HEAD_KEY} differs from {table.key}. The planner of ACE-Step 1.5 uses one table for "
                "both; this is another language model or a changed one: fetch the published file."
            )


def _same_rows(head: Entry, table: Entry) -> bool:
    """Whether the last rows are alike: equal, or near where quantising rounded the two in different ways."""
    if head.shape != table.shape:
        return False
    first, second = (_plain(one, read_tensor(one)[-HEAD_ROWS:], torch.float32) for one in (head, table))
    if head.dtype == table.dtype or not {head.dtype, table.dtype} & BLOCKS.keys():
        return torch.equal(first.float(), second.float())
    return bool((first.float() - second.float()).norm() < NEAR * second.float().norm())


def _differences(missing: Iterable[str], unexpected: Iterable[str], shapes: Mapping[str, tuple[Shape, Shape]]) -> str:
    wrong = [f"{key} is {list(got)}, expected {list(want)}" for key, (got, want) in sorted(shapes.items())]
    rows = (("Missing", sorted(missing)), ("Left over", sorted(unexpected)), ("Wrong shape", wrong))
    return "".join(f"{title} ({len(keys)}): {_some(keys)}. " for title, keys in rows if keys)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (" …" if len(keys) > SHOWN_KEYS else "")
