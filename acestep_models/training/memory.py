"""How much memory a training step needs, from the sizes alone: what autograd keeps of each layer (spec/lora.md §5.1).

Per layer and patch of two frames, as numbers of the decoder's dtype (H width, Q queries, K keys, M feed-forward):
the inputs of three norms 3 H; self-attention Q + K before norm and positions, Q + 2 K after them, its result Q (out of
a band, or in full precision, twice: `_gathered`); cross-attention Q, Q and Q; gate and up 2 M. The trained layers keep
what they read (H once for those that read the same, M for down) and their narrow middle. Per token of the condition:
keys before and after their norm and the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ..adapters.peft_folder import factors, is_whole
from ..dit.config import DiTConfig
from ..dit.transformer import DiT
from ..layers import band_elements, count_blocks
from .optimizers import ADAMW, ADAMW_8BIT, PRODIGY
from .trainable.inject import LOKR
from .trainable.targets import Target, check_targets, targets_of

FP32 = 4
# Bytes of state for each trained number: two moments; two moments of 8 bit; two moments, a sum and the start.
STATE_BYTES = {ADAMW: 8.0, ADAMW_8BIT: 2.1, PRODIGY: 16.0}
CARD_OVERHEAD = 1 << 30  # what a CUDA context, its workspaces and fragmentation take beside all of this


class MemoryOptions(Protocol):
    """What of the options of a run memory depends on."""

    @property
    def kind(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def factor(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def recompute(self) -> str: ...
    @property
    def ema(self) -> float: ...


@dataclass(frozen=True)
class Estimate:
    """Bytes.

    Attributes:
        base: the frozen decoder.
        adapter: the trained parameters and their gradients.
        optimizer: its state, and the running average where there is one.
        activations: what a step keeps for the gradient, and its largest intermediate results.
    """

    base: int
    adapter: int
    optimizer: int
    activations: int

    @property
    def growth(self) -> int:
        """What comes on top of the loaded decoder."""
        return self.adapter + self.optimizer + self.activations

    @property
    def total(self) -> int:
        """All of it; on a card add CARD_OVERHEAD."""
        return self.base + self.growth


def estimate(config: DiTConfig, options: MemoryOptions, frames: int, tokens: int, dtype: torch.dtype) -> Estimate:
    """What training needs with items of `frames` latent frames and `tokens` tokens of condition.

    `recompute` "auto" counts as off.

    Raises:
        ValueError: for targets or an optimizer that there are not.
    """
    check_targets(options.targets)
    if options.optimizer not in STATE_BYTES:
        raise ValueError(f"optimizer: expected one of {', '.join(STATE_BYTES)}, got {options.optimizer!r}")
    trained = trained_numbers(config, options)
    averages = FP32 if options.ema else 0
    return Estimate(
        base=decoder_numbers(config) * dtype.itemsize,
        adapter=trained * 2 * FP32,
        optimizer=int(trained * (STATE_BYTES[options.optimizer] + averages)),
        activations=_activations(config, options, frames, tokens, dtype),
    )


def trained_numbers(config: DiTConfig, options: MemoryOptions) -> int:
    """How many numbers are trained."""
    return sum(_trained(target, options) for target in targets_of(config, options.targets))


def _trained(target: Target, options: MemoryOptions) -> int:
    if options.kind != LOKR:
        return options.rank * (target.out + target.width)
    (out1, out2), (in1, in2) = factors(target.out, options.factor), factors(target.width, options.factor)
    whole = is_whole(options.rank, out2, in2)
    return out1 * in1 + (out2 * in2 if whole else options.rank * (out2 + in2))


def decoder_numbers(config: DiTConfig) -> int:
    """How many numbers the frozen decoder has."""
    decoder = DiT(replace(config, num_hidden_layers=1), device="meta")
    layer = sum(parameter.numel() for parameter in decoder.layers.parameters())
    return sum(parameter.numel() for parameter in decoder.parameters()) + (config.num_hidden_layers - 1) * layer


def kept_bytes(config: DiTConfig, options: MemoryOptions, frames: int, tokens: int, dtype: torch.dtype) -> int:
    """What autograd keeps of all layers without recomputation, all items of the batch."""
    layers = range(config.num_hidden_layers)
    return sum(_layer(config, options, frames, tokens, dtype, index % 2 == 0) for index in layers)


def _layer(
    config: DiTConfig, options: MemoryOptions, frames: int, tokens: int, dtype: torch.dtype, sliding: bool
) -> int:
    """Kept bytes of one layer; "sliding" computes in blocks, the last of which is filled up."""
    patches, size = -(-frames // config.patch_size), dtype.itemsize
    blocks = count_blocks(patches, config.sliding_window) if sliding else 0
    numbers = _patch_numbers(config, options) + _gathered(config, options, blocks > 0, size)
    own = patches * (numbers * size + _patch_extra(config))
    told = tokens * _token_numbers(config, options) * size
    return options.batch * (own + told + _filling(config, patches, blocks) * size)


def _filling(config: DiTConfig, patches: int, blocks: int) -> int:
    """Numbers of the rows that fill the last block of a band, and of the keys on both sides of it."""
    shape, window = config.decoder_shape, config.sliding_window
    if blocks < 2:
        return 0
    missing = blocks * window - patches
    return 2 * shape.head_dim * (missing * shape.heads + (missing + 2 * window) * shape.kv_heads)


def _gathered(config: DiTConfig, options: MemoryOptions, banded: bool, size: int) -> int:
    """What attention found, once more in the order in which the trained output layer reads it: out of the rows that
    bands, and grouped queries in full precision, are computed in. A dropped input is a copy anyway."""
    if options.dropout:
        return 0
    rows = {"self_attention": banded or size == FP32, "cross_attention": size == FP32}
    return sum(rows.get(name, False) for name in options.targets) * config.num_attention_heads * config.head_dim


def _patch_numbers(config: DiTConfig, options: MemoryOptions) -> int:
    shape = config.decoder_shape
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms, gated = 3 * shape.width, 2 * shape.hidden
    own, other = queries + keys + 2 * queries + 2 * keys, 3 * queries
    read = {"self_attention": shape.width, "cross_attention": shape.width, "mlp": shape.width + shape.hidden}
    shared = 0 if options.dropout else sum(read[name] for name in options.targets)
    branches = sum(_branch(target, options) for target in _in_a_layer(config, options) if not _reads_tokens(target))
    return norms + gated + own + other + shared + branches


def _branch(target: Target, options: MemoryOptions) -> int:
    """What one trained layer keeps for itself of each row: its middle; the dropped input and the mask of that."""
    dropped = 2 * target.width if options.dropout else 0
    if options.kind != LOKR:
        return options.rank + dropped
    (_, out2), (in1, in2) = factors(target.out, options.factor), factors(target.width, options.factor)
    return in1 * (out2 + (0 if is_whole(options.rank, out2, in2) else options.rank)) + dropped


def _in_a_layer(config: DiTConfig, options: MemoryOptions) -> Iterator[Target]:
    return targets_of(replace(config, num_hidden_layers=1), options.targets)


def _reads_tokens(target: Target) -> bool:
    return target.name.endswith(("cross_attn.k_proj", "cross_attn.v_proj"))


def _patch_extra(config: DiTConfig) -> int:
    """Bytes in fp32: the logarithms of both softmax sums."""
    return 2 * config.num_attention_heads * FP32


def _token_numbers(config: DiTConfig, options: MemoryOptions) -> int:
    keys = config.num_key_value_heads * config.head_dim
    if "cross_attention" not in options.targets:  # the condition has no gradient then
        return 2 * keys
    branches = sum(_branch(target, options) for target in _in_a_layer(config, options) if _reads_tokens(target))
    return 3 * keys + branches


def _activations(config: DiTConfig, options: MemoryOptions, frames: int, tokens: int, dtype: torch.dtype) -> int:
    kept = kept_bytes(config, options, frames, tokens, dtype)
    patches, size = options.batch * -(-frames // config.patch_size), dtype.itemsize
    if options.recompute == "on":
        inputs = config.num_hidden_layers * patches * config.hidden_size * size
        kept = inputs + _layer(config, options, frames, tokens, dtype, sliding=True)
    return (
        kept + patches * _passing_numbers(config) * size + _band(config, frames, dtype) + _casts(config, options, size)
    )


def _passing_numbers(config: DiTConfig) -> int:
    """At the widest point of the backward pass: gradients of stream and branch, of the product, gate and up."""
    return 3 * config.hidden_size + 4 * config.intermediate_size


def _band(config: DiTConfig, frames: int, dtype: torch.dtype) -> int:
    """The band that the sliding layers share."""
    patches, groups = -(-frames // config.patch_size), config.decoder_shape.groups
    return band_elements(patches, config.sliding_window, groups) * dtype.itemsize


def _casts(config: DiTConfig, options: MemoryOptions, size: int) -> int:
    """The parameters in the decoder's dtype, which the layers keep."""
    copies = trained_numbers(config, options) * size if size != FP32 else 0
    return copies // config.num_hidden_layers if options.recompute == "on" else copies
