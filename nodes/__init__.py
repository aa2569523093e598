"""The face: every node of the pack, in one explicit list."""

from __future__ import annotations

from .blueprint_tools import BlueprintValues, LoadBlueprint, SaveBlueprint
from .codes import UnderstandAudio, WriteCodes
from .cover import Cover
from .dataset import BuildDataset, SaveDataset
from .decode import DecodeAudio, Loudness
from .edit_blueprint import EditBlueprint
from .encode import EncodeSong
from .extend import Extend
from .guide import Guider, Schedule
from .host.schema import ComfyExtension, io
from .host.stop_training import add_stop_route
from .label_dataset import LabelDataset
from .load import LoadDiT
from .load_lm import LoadLM
from .lora import ApplyLoRA, HookLoRA
from .lora_tools import ConvertLoRA, ExtractLoRA, InspectLoRA, MergeLoRAs
from .mask import SpanMask
from .morph import Morph
from .plan import Blueprint
from .planner import PlanSong
from .reference import EncodeReference
from .repaint import Repaint
from .retake import AdjustLatent, Retake
from .sample import DiTSample, SamplingOptions
from .score import ChooseBest, ScoreSongs
from .song_tools import CutSong, JoinSongs, LoopSong
from .source import EncodeSource, LatentSource
from .speed import SpeedUp
from .stems import SeparateStems
from .tracks import AddTrack, Complete
from .train import TrainLoRA
from .train_options import TrainingOptions

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadDiT,
    LoadLM,
    SpeedUp,
    ApplyLoRA,
    HookLoRA,
    InspectLoRA,
    ConvertLoRA,
    MergeLoRAs,
    ExtractLoRA,
    Blueprint,
    PlanSong,
    WriteCodes,
    UnderstandAudio,
    ScoreSongs,
    ChooseBest,
    EditBlueprint,
    SaveBlueprint,
    LoadBlueprint,
    BlueprintValues,
    EncodeSource,
    LatentSource,
    EncodeReference,
    SamplingOptions,
    EncodeSong,
    Guider,
    Schedule,
    DiTSample,
    Cover,
    Repaint,
    Extend,
    SeparateStems,
    AddTrack,
    Complete,
    Retake,
    AdjustLatent,
    Morph,
    SpanMask,
    DecodeAudio,
    Loudness,
    CutSong,
    LoopSong,
    JoinSongs,
    BuildDataset,
    LabelDataset,
    SaveDataset,
    TrainingOptions,
    TrainLoRA,
)


class ACEStepExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node class; the server learns of the pack's one route meanwhile."""
        add_stop_route()
        return list(NODES)
