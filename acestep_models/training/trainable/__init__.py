"""Adapters that can be trained, inside the decoder: LoRA and LoKr on frozen layers."""

from __future__ import annotations

from .inject import KINDS, Trainable, inject
from .targets import TARGETS

__all__ = ["KINDS", "TARGETS", "Trainable", "inject"]
