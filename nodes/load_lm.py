"""Load LM: a planner's files become a wire."""

from __future__ import annotations

import logging
from typing import Any

from .host import download as fetching
from .host import folders
from .host.ahead import read_ahead
from .host.lm_loader import LoadedLM, load_planner, open_planner
from .host.loader import CHOICES, told
from .host.schema import io, out, report, schema, socket
from .load import MARK, plain_name
from .types import Lm
from .widgets import choice


class LoadLM(io.ComfyNode):
    """Node "ACEStepLoadLM"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Files from ComfyUI's folders."""
        return schema(
            node_id="ACEStepLoadLM",
            display_name="ACE-Step 1.5 Load LM",
            description="Loads a planner of ACE-Step 1.5: the language model that makes a whole song on paper out of "
            "one sentence, writes its audio codes, and listens to songs.",
            search_aliases=["planner", "language model", "ace step llm", "5Hz lm", "qwen3"],
            inputs=_inputs(),
            outputs=[out(Lm, "lm", "The planner, for PlanSong, WriteCodes, UnderstandAudio and ScoreSongs.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: Any = None, precision: Any = None, download: Any = None) -> str:
        """Load again when a file was replaced. What is linked arrives as None."""
        there = model and fetching.on_disk(plain_name(model))
        if not there:
            return f"{model} is not there|{download}"
        return f"{folders.stamp(folders.planner_path(there))}|{precision}"

    @classmethod
    def execute(cls, model: str, precision: str, download: bool) -> io.NodeOutput:
        """Fetch it if it is not here and that is allowed, load it, say what it is."""
        name = fetching.ready_planner(plain_name(model), download)
        checkpoint = open_planner(folders.planner_path(name))
        read_ahead(checkpoint)
        loaded = load_planner(checkpoint, precision)
        text = _describe(loaded)
        logging.info("ACE-Step 1.5: %s", "; ".join(text))
        return io.NodeOutput(loaded.lm, ui=report(*text))


def planner_choices() -> list[str]:
    """What is on disk, then every released planner: those stay once they are there, because workflows name them."""
    return [*folders.planner_names(), *(f"{name}{MARK}" for name in fetching.planner_names())]


def _inputs() -> list[Any]:
    sizes = "; ".join(fetching.note(name) for name in fetching.planner_names())
    return [
        socket(
            io.Combo,
            "model",
            options=planner_choices(),
            tooltip="A file from models/text_encoders or an all-in-one file from models/checkpoints, or a folder "
            "acestep-5Hz-lm-... as published. 0.6B is the fastest, 1.7B the usual one, 4B knows most music. "
            f"Those marked{MARK} are released planners: switch download on to have them fetched.",
        ),
        choice(
            "precision",
            CHOICES,
            "auto: bf16 where the graphics card is good at it, else fp32. fp32 is exact and slower. int8: weights "
            "in half the memory of bf16 (a quantised file keeps its own), computed in what auto takes; some "
            "codes come out otherwise.",
            advanced=True,
        ),
        socket(
            io.Boolean,
            "download",
            default=False,
            tooltip=f"Fetches the chosen planner from Hugging Face, once ({sizes}). Off: nothing is ever fetched.",
        ),
    ]


def _describe(loaded: LoadedLM) -> tuple[str, ...]:
    """The values really used, one line each."""
    config = loaded.config
    return (
        f"planner: {loaded.path.name} ({loaded.size}: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.vocab_size} tokens)",
        f"precision: {told(loaded.lm.model.module, loaded.lm.model.dtype)} on {loaded.device}",
        f"tokenizer: {loaded.tokenizer}",
    )
