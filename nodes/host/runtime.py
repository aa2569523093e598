"""The core's `Runtime` on top of ComfyUI's memory manager, progress bar and cancel button."""

from __future__ import annotations

import sys
import time
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from torch import nn

from ...acestep_models.loading.packed import unpacking_bytes
from ...acestep_models.runtime import Handle, M
from .fused import brings_weights, join_weights, separating

INTERVAL_SECONDS = 0.1


class HostRuntime:
    """The surroundings of one run of one node."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._total = 0
        self._moved = 0.0
        self.last_words = ""

    def progress(self, done: int, total: int) -> None:
        """Move the green bar of the running node, at most ten times a second and at the end.

        A planner reports hundreds of tokens a second; older hosts would send each of them to every browser.
        """
        if self._bar is None or total != self._total:
            self._bar, self._total, self._moved = comfy.utils.ProgressBar(total), total, 0.0
        now = time.monotonic()
        if done >= total or now - self._moved >= INTERVAL_SECONDS:
            self._moved = now
            self._bar.update_absolute(done, total)

    def say(self, text: str) -> None:
        """Show a line under the running node, and keep it for the node's own report.

        ComfyUI's server is looked up, never imported: outside of a running one there is nobody to tell.
        """
        self.last_words = text
        server: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
        context = get_executing_context()
        if context is not None and hasattr(server, "send_progress_text"):
            server.send_progress_text(text, context.node_id, server.client_id)

    def check_cancelled(self) -> None:
        """Raise the host's own exception once its cancel button was pressed; nobody catches it."""
        management.throw_exception_if_processing_interrupted()

    def place(self, handle: Handle[M], reserve_bytes: int = 0) -> M:
        """The network with as many of its weights on the device as fit beside `reserve_bytes`.

        What packed weights need at their use is added here.
        """
        management.load_models_gpu([handle.owner], memory_required=_with_unpacking(handle, reserve_bytes))
        return handle.module

    def complete(self, handle: Handle[Any], reserve_bytes: int = 0) -> None:
        """Bring the rest of a placed network too if it fits beside `reserve_bytes`: for one that is read at each token.

        The host always keeps 0.8 GB to compute in, however little is reserved, and would stream the rest for its sake.
        What a user told it to leave to others stays free.
        """
        owner, reserve_bytes = handle.owner, _with_unpacking(handle, reserve_bytes)
        missing = owner.model_size() - owner.loaded_size()
        spare = self.free_bytes(handle) - management.extra_reserved_memory() - reserve_bytes
        if 0 < missing <= spare:
            management.load_models_gpu([owner], memory_required=reserve_bytes, force_full_load=True)

    def device(self, handle: Handle[Any]) -> torch.device:
        """Where the network computes."""
        device: torch.device = handle.owner.load_device
        return device

    def free_bytes(self, handle: Handle[Any]) -> int:
        """What the host counts as free on the device, with what torch keeps there without using it.

        Where newer hosts bring weights at their use, these fill a card and go as soon as their place is wanted: there
        it counts as free. What other programs hold never does.
        """
        device = handle.owner.load_device
        free = management.get_free_memory(device)
        if brings_weights(handle.owner):
            free = min(management.get_total_memory(device), free + _fleeting_bytes(device))
        return int(free)

    def loaded_share(self, handle: Handle[Any]) -> float:
        """How much of a placed network lies on its device, 0 to 1.

        A dynamic patcher of newer hosts brings weights at their first use: for it, how much there is room for.
        """
        owner = handle.owner
        loaded = owner.loaded_size()
        if brings_weights(owner):
            loaded += management.get_free_memory(owner.load_device)
        return float(min(1.0, loaded / max(1, owner.model_size())))


def _with_unpacking(handle: Handle[Any], reserve_bytes: int) -> int:
    return reserve_bytes + unpacking_bytes(handle.module, handle.dtype)


def _fleeting_bytes(device: torch.device) -> int:
    """What weights take on a device that go by themselves."""
    there = (entry.model for entry in management.current_loaded_models if entry.device == device)
    return sum(owner.loaded_size() for owner in there if owner is not None and brings_weights(owner))


def patcher(
    module: nn.Module, load_device: torch.device, offload_device: torch.device, disable_dynamic: bool = False
) -> Any:
    """The module under the memory manager. The class is looked up now: newer hosts replace it at start."""
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    owner = separating(kind)(module, load_device=load_device, offload_device=offload_device)
    owner.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, patch_raw_parameters)
    owner.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, join_weights)
    return owner


def patch_raw_parameters(owner: Any, *how: Any) -> None:
    """Merge and LoRA patches for parameters beside layers, such as the decoder's scale_shift_table.

    The host patches the weights of leaf modules and passes over these without a word. It takes what is in `backup`
    back by itself.
    """
    for key in owner.patches:
        module = owner.model.get_submodule(key.rpartition(".")[0])
        if key not in owner.backup and any(True for child in module.children() for _ in child.parameters()):
            owner.patch_weight_to_device(key)


def handle(
    module: M,
    dtype: torch.dtype,
    load_device: torch.device,
    offload_device: torch.device,
    disable_dynamic: bool = False,
) -> Handle[M]:
    """A network that computes in `dtype` and rests on `offload_device` while nobody needs it."""
    module.eval().to(offload_device)
    remember = getattr(management, "archive_model_dtypes", None)  # newer hosts want to know what weights were
    if remember is not None:
        remember(module)
    return Handle(module, dtype, patcher(module, load_device, offload_device, disable_dynamic))
