"""Checkpoints in every published layout: recognised by their headers, loaded strictly, mapped into memory."""

from __future__ import annotations

from .build import build_empty, build_part, check_state, load_state
from .checkpoint import Checkpoint
from .formats import FORMATS, probe
from .header import Header, read_header

__all__ = [
    "FORMATS",
    "Checkpoint",
    "Header",
    "build_empty",
    "build_part",
    "check_state",
    "load_state",
    "probe",
    "read_header",
]
