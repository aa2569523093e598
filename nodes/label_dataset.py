"""LabelDataset: what the planner hears in songs, for what nobody said of them."""

from __future__ import annotations

from typing import Any

from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.planner.lm import LM
from ..acestep_models.planner.sampling import TokenSampling
from ..acestep_models.planner.understand import UnderstandOptions
from ..acestep_models.runtime import Handle
from ..acestep_models.training.data.clip import Dataset
from ..acestep_models.training.labels import LYRICS, TEMPERATURE, WHICH, LabelOptions, label
from .dataset import dataset_input, describe_dataset
from .host.label_files import labels_folder
from .host.schema import io, out, report, schema, socket
from .planner_runtime import PlannerRuntime
from .types import Dataset as DatasetType
from .types import Vae
from .widgets import conditioner_input, lm_input, lm_seed_input, lm_wire, one_of, sampling_inputs, wire


class LabelDataset(io.ComfyNode):
    """Node "ACEStepLabelDataset"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Planner and songs in; the songs with captions and facts out."""
        return schema(
            node_id="ACEStepLabelDataset",
            display_name="ACE-Step 1.5 Label Dataset",
            description="Listens to the songs of a dataset and writes down what nobody said of them: caption, genre, "
            "tempo, key and time signature, and lyrics if you want them. What you wrote stays, every letter.",
            search_aliases=["auto caption", "auto label", "transcribe", "understand", "train lora", "bpm detection"],
            inputs=[
                lm_input(),
                conditioner_input(),
                socket(Vae, "vae", tooltip="From Load DiT; the songs are heard through it."),
                dataset_input(),
                *_wishes(),
                lm_seed_input("other words", "Every song is heard with this one seed."),
                *sampling_inputs(temperature=TEMPERATURE),
            ],
            outputs=[
                out(DatasetType, "dataset", "The songs with what was heard, for Save Dataset and Train LoRA."),
                out(io.String, "text", "What was heard in which song, and how each song reads now."),
            ],
        )

    @classmethod
    def execute(
        cls,
        lm: LM,
        conditioner: ConditionerModels,
        vae: Handle[Any],
        dataset: Dataset,
        lyrics: str,
        which: str,
        seed: int,
        temperature: float,
        top_p: float,
        top_k: int,
    ) -> io.NodeOutput:
        """Listen to each song, and say what was heard."""
        runtime = PlannerRuntime(lm_wire(lm))
        wire("conditioner", conditioner, ConditionerModels, "Load DiT")
        wire("vae", vae, Handle, "Load DiT")
        wire("dataset", dataset, Dataset, "Build Dataset")
        options = LabelOptions(
            lyrics=one_of("lyrics", lyrics, LYRICS),
            which=one_of("which", which, WHICH),
            listen=UnderstandOptions(seed, TokenSampling(temperature, top_p, top_k)),
            kept=labels_folder(),
        )
        labelled = label(runtime, lm, conditioner, vae, dataset, options)
        text = report(_counted(dataset, labelled), *describe_dataset(labelled), *runtime.manner())
        return io.NodeOutput(labelled, text["text"][0], ui=text)


def _counted(before: Dataset, after: Dataset) -> str:
    changed = sum(old is not new for old, new in zip(before.clips, after.clips, strict=True))
    total = len(after.clips)
    return f"labelled: {changed} of {total} song{'s' if total > 1 else ''}" + (
        "" if changed else "; there was nothing to fill"
    )


def _wishes() -> list[Any]:
    return [
        socket(
            io.Combo,
            "lyrics",
            options=list(LYRICS),
            default=LYRICS[0],
            tooltip="Of songs without lyrics. keep: they stay without, which is learned as instrumental. transcribe: "
            "the planner writes what it hears. Lyrics that are there always stay.",
        ),
        socket(
            io.Combo,
            "which",
            options=list(WHICH),
            default=WHICH[0],
            tooltip="unlabelled: songs that nobody labelled, and those without a caption. all: the gaps of the others "
            "are filled too.",
        ),
    ]
