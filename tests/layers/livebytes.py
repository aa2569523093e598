"""How many bytes of tensors live at once, for tests of memory estimates."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acestep_models.ops import Ops


class Peak(TorchDispatchMode):
    """The most bytes of tensors that were alive at once among those made inside; views count once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.users = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            key = leaf.untyped_storage()._cdata if torch.is_tensor(leaf) else None
            if key in self.users or (key is not None and key not in given):
                self._hold(leaf, key)
        return out

    def _hold(self, tensor, key):
        if key not in self.users:
            self.users[key] = 0
            self.now += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.now)
        self.users[key] += 1
        weakref.finalize(tensor, self._release, key, tensor.untyped_storage().nbytes())

    def _release(self, key, size):
        self.users[key] -= 1
        if self.users[key] == 0:
            del self.users[key]
            self.now -= size


def fused_attention(q, k, v, mask=None, causal=False):
    """What a fused kernel allocates: its result, and the mask as numbers; no scores."""
    numbers = None if mask is None else mask.to(q.dtype)
    result = torch.empty_like(q)
    del numbers
    return result


def one_product(layers, x):
    """What layers that compute as one allocate: a tensor that all of their results are views of."""
    widths = [layer.weight.shape[0] for layer in layers]
    return x.new_empty(*x.shape[:-1], sum(widths)).split(widths, dim=-1)


FUSED = Ops(attention=fused_attention)
JOINED = replace(FUSED, joined=one_product)


def peak_bytes(run):
    gc.collect()
    with torch.no_grad(), Peak() as peak:
        run()
    return peak.peak
