"""Layers that read the same tensor, as one product: queries, keys and values; gate and up (spec/perf.md §4).

After a load that brought a whole network, the weights of such a group are moved under one another into one storage and
each layer keeps a view of its rows: no weight exists twice, and whoever writes into one writes into the whole. At each
use a group is looked at anew. Where a weight is patched, streamed, packed or was put somewhere else, each layer
computes by itself as the host wants it, until the next load brings the group together again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_management as management
import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG = logging.getLogger(__name__)

SEPARATES = "acestep_separates"  # an attribute of patchers that take groups apart
# The host's layers that do nothing but multiply; those of its faster kinds multiply in other ways.
PLAIN = (comfy.ops.manual_cast.Linear, comfy.ops.disable_weight_init.Linear)


def joined(layers: Sequence[Any], x: Tensor) -> tuple[Tensor, ...]:
    """As `Ops.joined`: x [..., in] -> of each layer [..., out], in one product where the weights lie ready for it.

    Within a gradient or a compiled graph each layer computes by itself: there they may be wrapped or traced.
    """
    alone = not gains(x.device) or torch.is_grad_enabled() or torch.compiler.is_compiling()
    weight = None if alone else _whole(layers, x)
    if weight is None:
        return tuple(layer(x) for layer in layers)
    comfy.ops.run_every_op()  # as each layer does: Cancel is heard here
    return F.linear(x, weight).split([layer.weight.shape[0] for layer in layers], dim=-1)


def join_weights(owner: Any, *how: Any) -> None:
    """After a load: bring the groups of a network together that lies on its device as a whole, one after another.

    Groups with a patched weight stay as they are, as the host holds the weights from before beside them. Where newer
    hosts bring weights at their use, none ever lies still; a clone of theirs that does not is of the host's own class.
    """
    separates = getattr(owner, SEPARATES, False) and not brings_weights(owner)
    if not separates or getattr(owner.model, "model_lowvram", False) or not gains(owner.load_device):
        return
    patched = {id(owner.model.get_submodule(key.rpartition(".")[0])) for key in owner.backup}
    groups = (group for group in find_groups(owner.model) if not any(id(layer) in patched for layer in group))
    loose = [group for group in groups if _can_join(group)]
    try:
        for group in loose:
            join(group)
    except torch.cuda.OutOfMemoryError as error:
        LOG.warning("Too little memory to bring weights together; the layers compute one by one: %s", error)
    if loose:
        management.soft_empty_cache()  # the places they came from are too small for what comes next


def brings_weights(owner: Any) -> bool:
    """Whether a patcher is one of newer hosts that bring the weights in at each use, so that none lies still."""
    return bool(getattr(owner, "is_dynamic", lambda: False)())


def gains(device: torch.device) -> bool:
    """Whether one product beats several on a device.

    On a CPU it does not (benchmarks/fused.py), and weights that are mapped from their file would become copies.
    """
    return device.type not in ("cpu", "meta")


def separate(module: nn.Module, rest: torch.device) -> None:
    """Give the layers that stayed of groups of which others have left a storage of their own, group by group.

    A card is full when layers leave it: where it has no room for a copy, they go by way of `rest`.
    """
    for group in find_groups(module):
        whole = sum(layer.weight.nbytes for layer in group)
        stayed = [layer for layer in group if layer.weight.untyped_storage().nbytes() == whole]
        if 0 < len(stayed) < len(group):
            with torch.inference_mode(False), torch.no_grad():
                _take_apart(stayed, rest)


def _take_apart(stayed: Sequence[Any], rest: torch.device) -> None:
    place, apart = stayed[0].weight.device, _copies(stayed)
    if apart is None:
        apart = [layer.weight.to(rest, copy=True) for layer in stayed]
        _put(stayed, apart)  # the last of them frees the storage
        apart = [weight.to(place) for weight in apart]
    _put(stayed, apart)


def _copies(layers: Sequence[Any]) -> list[Tensor] | None:
    """Their weights once more where they are; None where there is no room, and then no copy is left there either."""
    try:
        return [layer.weight.clone() for layer in layers]
    except torch.cuda.OutOfMemoryError:
        return None


def _put(layers: Sequence[Any], weights: Sequence[Tensor]) -> None:
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = _parameter(weight, layer.weight)


def separating(kind: Any) -> Any:
    """The host's class of a patcher that takes a group apart when single layers of it have gone.

    They would have freed nothing while the others hold the storage, and the host counts on what it freed.
    """

    def partially_unload(self: Any, *given: Any, **named: Any) -> Any:
        freed = kind.partially_unload(self, *given, **named)
        separate(self.model, self.offload_device)
        return freed

    made = {"partially_unload": partially_unload, "__module__": kind.__module__, SEPARATES: True}
    return type(kind.__name__, (kind,), made)


def find_groups(module: nn.Module) -> Iterator[list[Any]]:
    """The layers of a network that are asked for together."""
    for part in module.modules():
        if names := getattr(part, "JOINT", ()):
            yield [getattr(part, name) for name in names]


def lies_together(group: Sequence[Any]) -> bool:
    """Whether the weights of a group are plain ones that lie under one another."""
    return _whole(group, group[0].weight) is not None


def _can_join(group: Sequence[Any]) -> bool:
    """Whether these are plain matrices of one kind that do not lie under one another yet."""
    return _are_bare(group, group[0].weight) and not lies_together(group)


def join(group: Sequence[Any]) -> None:
    """Move the weights of a group under one another. Needs room for them once more, until it is done.

    Weights made here are none of an inference mode, so that a later training may use them.
    """
    rows = [layer.weight.shape[0] for layer in group]
    with torch.inference_mode(False), torch.no_grad():
        whole = group[0].weight.new_empty(sum(rows), group[0].weight.shape[1])  # [all out, in]
        for layer, place in zip(group, whole.split(rows), strict=True):
            layer.weight = _parameter(place.copy_(layer.weight), layer.weight)


def _parameter(value: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=like.requires_grad)


def _whole(group: Sequence[Any], x: Tensor) -> Tensor | None:
    """The weight [all out, in] of a group that can compute with x as one."""
    return _whole_of([layer.weight for layer in group]) if _are_bare(group, x) else None


def _whole_of(weights: Sequence[Tensor]) -> Tensor | None:
    """Matrices [out, in] that fill one stretch of one storage, as one; None where they lie otherwise.

    Whatever lies within the stretch of a living storage belongs to that storage.
    """
    first, width = weights[0], weights[0].shape[1]
    start = at = first.data_ptr()
    for weight in weights:
        if weight.data_ptr() != at or weight.shape[1] != width or not weight.is_contiguous():
            return None
        at += weight.nbytes
    storage = first.untyped_storage()
    if at > storage.data_ptr() + storage.nbytes() or start == 0:  # without an address: on meta
        return None
    return first.as_strided((sum(weight.shape[0] for weight in weights), width), (width, 1))


def _are_bare(group: Sequence[Any], like: Tensor) -> bool:
    """Whether each layer would just multiply its weight, which is where `like` is and as exact."""
    return all(_is_bare(layer, like) for layer in group)


def _is_bare(layer: Any, like: Tensor) -> bool:
    if type(layer) not in PLAIN or layer.bias is not None or "forward" in layer.__dict__ or hasattr(layer, "_v"):
        return False
    if layer.weight_function or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if getattr(layer, "weight_lowvram_function", None) is not None:
        return False
    weight = layer.weight
    return type(weight) in (Tensor, nn.Parameter) and weight.dtype == like.dtype and weight.device == like.device
