"""A graphics card that is none: the host's memory manager counts a budget, and the CPU computes."""

from __future__ import annotations

import torch

BIG = 1 << 40  # bytes; everything fits


class FakeCard:
    """FakeCard(set) makes the host think that cpu:0 is a card; `set(module, name, value)` can be undone by its owner.

    card(bytes) is how much memory it has from now on, with nothing in it; card(bytes, device=...) says which it is.
    """

    def __init__(self, set_attribute):
        import comfy.model_management as management

        self.management, self.device, self.budget = management, torch.device("cpu", 0), BIG
        replaced = {
            "get_torch_device": lambda *_: self.device,
            "text_encoder_device": lambda *_: self.device,
            "vae_device": lambda *_: self.device,
            "get_free_memory": self._free,
            "get_total_memory": lambda *_, **k: (self.budget, 0) if k.get("torch_total_too") else self.budget,
            "is_device_cpu": lambda place: place is None or (place.type == "cpu" and place.index is None),
            "vram_state": management.VRAMState.NORMAL_VRAM,
            "minimum_inference_memory": lambda *_: 0,
            "extra_reserved_memory": lambda *_: 0,
            "soft_empty_cache": lambda *_, **__: None,
            "should_use_bf16": lambda *_, **__: False,
        }
        for name, value in replaced.items():
            set_attribute(management, name, value)

    def __call__(self, amount, device=None):
        self.forget()
        self.budget, self.device = amount, torch.device("cpu", 0) if device is None else device

    def forget(self):
        """Put every network back; what lies on meta has no weights to bring home."""
        if self.device.type != "meta":
            self.management.free_memory(1e30, self.device)
        self.management.current_loaded_models.clear()

    def _free(self, place=None, torch_free_too=False):
        amount = self.budget - self._used() if place in (None, self.device) else 64 << 30
        return (amount, 0) if torch_free_too else amount

    def _used(self):
        loaded = self.management.current_loaded_models
        mine = (m for m in loaded if m.model is not None and m.device == self.device)
        return sum(m.model_loaded_memory() for m in mine)
