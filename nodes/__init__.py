"""The face: every node of the pack, in one explicit list."""

from __future__ import annotations

from .decode import DecodeAudio, Loudness
from .encode import EncodeSong
from .guide import Guider, Schedule
from .host.schema import ComfyExtension, io
from .load import LoadDiT
from .plan import Blueprint
from .sample import DiTSample, SamplingOptions

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadDiT,
    Blueprint,
    SamplingOptions,
    EncodeSong,
    Guider,
    Schedule,
    DiTSample,
    DecodeAudio,
    Loudness,
)


class ACEStepExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node class."""
        return list(NODES)
