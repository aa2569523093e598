"""CUDA graphs of a decoding step; see `..graphs`."""

from __future__ import annotations

from ..graphs import Graphs, Recorder, record_cuda

__all__ = ["Graphs", "Recorder", "record_cuda"]
