"""InspectLoRA, ConvertLoRA, MergeLoRAs, ExtractLoRA: adapters as files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..acestep_models.adapters.change import extract, merge
from .host.models import song_model
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .host.weights import decoder_pair, unseen_changes
from .lora_files import (
    MAX_RANK,
    check_entries,
    check_request,
    family_input,
    fitted,
    guesses,
    name_input,
    rank_input,
    read,
    request_stamp,
    saved,
    saved_outputs,
    stamps,
)
from .lora_inputs import NONE, STRONGEST, alpha_input, check_finite, lora_input
from .lora_report import describe_adapter
from .lora_summary import metadata_lines, summary

REQUIRED, OPTIONAL = (1, 2), (3, 4)  # the LoRAs that MergeLoRAs takes
USUAL_RANK = 64


class InspectLoRA(io.ComfyNode):
    """Node "ACEStepInspectLoRA"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A LoRA of the list in; what is in it as text."""
        return schema(
            node_id="ACEStepInspectLoRA",
            display_name="ACE-Step 1.5 Inspect LoRA",
            description="Says what a LoRA file is: family, rank, alpha, what it changes, what it was trained on, its "
            "trigger word and its metadata. Nothing is changed.",
            search_aliases=["lora info", "lora metadata", "trigger word", "lora rank", "lora alpha"],
            inputs=[lora_input(), alpha_input()],
            outputs=[out(io.String, "text", "Everything that was found, one line each.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, lora: Any = None, alpha: Any = None) -> bool | str:
        """A file that is gone is named before anything runs. What is linked arrives as None."""
        return check_entries(lora=lora, alpha=alpha)

    @classmethod
    def fingerprint_inputs(cls, lora: Any = None, alpha: Any = None) -> str:
        """Read again when the file was replaced."""
        return f"{stamps(lora)}|{alpha}"

    @classmethod
    def execute(cls, lora: str, alpha: float) -> io.NodeOutput:
        """Read, and say what was read."""
        adapter = read(lora, alpha)
        text = report(*describe_adapter(lora, adapter), *summary(adapter), *metadata_lines(adapter.facts))
        return io.NodeOutput(text["text"][0], ui=text)


class ConvertLoRA(io.ComfyNode):
    """Node "ACEStepConvertLoRA"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A LoRA of the list in; a new file of another family beside it."""
        return schema(
            node_id="ACEStepConvertLoRA",
            display_name="ACE-Step 1.5 Convert LoRA",
            description="Writes a LoRA as another program reads it, with its alpha, at the same rank or a smaller one. "
            "The result is a new file in ComfyUI's loras folder.",
            search_aliases=["export lora", "peft", "resize lora", "kohya", "diffusers", "lora format"],
            inputs=[lora_input(), family_input(), name_input("converted"), rank_input(), alpha_input()],
            outputs=saved_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, lora: Any = None, family: Any = None, name: Any = None, alpha: Any = None) -> bool | str:
        """A file that is gone, or a name that is none, is said before anything runs."""
        return check_entries(name, family, alpha, lora=lora)

    @classmethod
    def fingerprint_inputs(
        cls, lora: Any = None, family: Any = None, name: Any = None, rank: Any = None, alpha: Any = None
    ) -> str:
        """Written again when the file was replaced, or the new one deleted."""
        values = {"lora": lora, "family": family, "name": name, "rank": rank, "alpha": alpha}
        return request_stamp("ConvertLoRA", values, lora)

    @classmethod
    def execute(cls, lora: str, family: str, name: str, rank: int, alpha: float) -> io.NodeOutput:
        """Read, resize if that is asked for, write."""
        check_request(name, family)
        values = {"lora": lora, "family": family, "name": name, "rank": rank, "alpha": alpha}
        return saved(fitted(read(lora, alpha), rank), "ConvertLoRA", values, f"from: {lora}")


class MergeLoRAs(io.ComfyNode):
    """Node "ACEStepMergeLoRAs"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two to four LoRAs of the list in; one new file."""
        return schema(
            node_id="ACEStepMergeLoRAs",
            display_name="ACE-Step 1.5 Merge LoRAs",
            description="Makes one LoRA of two to four, each at a strength of its own. With rank 0 it is exactly their "
            "sum, and has the sum of their ranks.",
            search_aliases=["combine lora", "add lora", "lora merge"],
            inputs=[
                *(one for number in REQUIRED for one in _merged(number)),
                family_input(),
                name_input("merged"),
                rank_input(),
                alpha_input(),
                *(one for number in OPTIONAL for one in _merged(number, optional=True)),
            ],
            outputs=saved_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        lora_1: Any = None,
        lora_2: Any = None,
        family: Any = None,
        name: Any = None,
        alpha: Any = None,
        lora_3: Any = None,
        lora_4: Any = None,
    ) -> bool | str:
        """A file that is gone, or a name that is none, is said before anything runs."""
        return check_entries(name, family, alpha, lora_1=lora_1, lora_2=lora_2, lora_3=lora_3, lora_4=lora_4)

    @classmethod
    def fingerprint_inputs(
        cls,
        lora_1: Any = None,
        strength_1: Any = None,
        lora_2: Any = None,
        strength_2: Any = None,
        family: Any = None,
        name: Any = None,
        rank: Any = None,
        alpha: Any = None,
        lora_3: Any = None,
        strength_3: Any = None,
        lora_4: Any = None,
        strength_4: Any = None,
    ) -> str:
        """Written again when one of the files was replaced, or the new one deleted."""
        pairs = ((lora_1, strength_1), (lora_2, strength_2), (lora_3, strength_3), (lora_4, strength_4))
        values = {"family": family, "name": name, "rank": rank, "alpha": alpha, **_pair_values(pairs)}
        return request_stamp("MergeLoRAs", values, lora_1, lora_2, lora_3, lora_4)

    @classmethod
    def execute(
        cls,
        lora_1: str,
        strength_1: float,
        lora_2: str,
        strength_2: float,
        family: str,
        name: str,
        rank: int,
        alpha: float,
        lora_3: str = NONE,
        strength_3: float = 1.0,
        lora_4: str = NONE,
        strength_4: float = 1.0,
    ) -> io.NodeOutput:
        """Read each, add them up at the rank that is asked for, write."""
        check_request(name, family)
        pairs = ((lora_1, strength_1), (lora_2, strength_2), (lora_3, strength_3), (lora_4, strength_4))
        check_finite(**{f"strength_{number}": by for number, (_, by) in enumerate(pairs, 1)})
        chosen = {f"lora_{number}": pair for number, pair in enumerate(pairs, 1) if pair[0] != NONE}
        adapters = [read(entry, alpha, where) for where, (entry, _) in chosen.items()]
        adapter = merge(adapters, [strength for _, strength in chosen.values()], rank or None, HostRuntime())
        lines = [f"from: {entry} at {by:g}" for entry, by in chosen.values()]
        values = {"family": family, "name": name, "rank": rank, "alpha": alpha, **_pair_values(pairs)}
        return saved(adapter, "MergeLoRAs", values, *lines, *guesses(chosen.values(), adapters))


class ExtractLoRA(io.ComfyNode):
    """Node "ACEStepExtractLoRA"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two decoders of one size in; what leads from one to the other as a new file."""
        return schema(
            node_id="ACEStepExtractLoRA",
            display_name="ACE-Step 1.5 Extract LoRA",
            description="Makes a LoRA of what a tuned model has over the one it was made from. Patches count: a model "
            "behind LoRA or merge nodes is taken as it plays. The decoder only.",
            search_aliases=["lora from checkpoint", "model difference", "lora extract", "svd"],
            inputs=[
                socket(io.Model, "model_tuned", tooltip="The decoder that the LoRA shall lead to."),
                socket(io.Model, "model_base", tooltip="The decoder that it shall be put on, of the same size."),
                socket(
                    io.Int,
                    "rank",
                    default=USUAL_RANK,
                    min=1,
                    max=MAX_RANK,
                    tooltip="How much of the difference is kept: a higher rank is closer, and a larger file.",
                ),
                family_input(),
                name_input("extracted"),
            ],
            outputs=saved_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, family: Any = None, name: Any = None) -> bool | str:
        """A name that is none is said before anything runs."""
        return check_entries(name, family)

    @classmethod
    def fingerprint_inputs(cls, rank: Any = None, family: Any = None, name: Any = None, **wires: Any) -> str:
        """Written again when the new file was deleted."""
        return request_stamp("ExtractLoRA", {"rank": rank, "family": family, "name": name})

    @classmethod
    def execute(cls, model_tuned: Any, model_base: Any, rank: int, family: str, name: str) -> io.NodeOutput:
        """Compare weight by weight, and write what differs."""
        check_request(name, family)
        tuned, base = decoder_pair(model_tuned, model_base)
        adapter = extract(base, tuned, rank, HostRuntime())
        variant = song_model(model_base).variant_name
        adapter = replace(adapter, facts=replace(adapter.facts, base_variant=variant))
        values = {"rank": rank, "family": family, "name": name}
        return saved(adapter, "ExtractLoRA", values, *unseen_changes(model_tuned=model_tuned, model_base=model_base))


def _pair_values(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Entries with their strengths, by the names of their inputs."""
    return {
        f"{kind}_{n}": one
        for n, pair in enumerate(pairs, 1)
        for kind, one in zip(("lora", "strength"), pair, strict=True)
    }


def _merged(number: int, optional: bool = False) -> tuple[Any, Any]:
    """One of the LoRAs to be merged, and how much of it."""
    strength = socket(
        io.Float,
        f"strength_{number}",
        default=1.0,
        min=-STRONGEST,
        max=STRONGEST,
        step=0.05,
        optional=optional,
        tooltip=f"How much of lora_{number} the result has. 1: as trained. 0: nothing. Below 0: the opposite.",
    )
    return lora_input(f"lora_{number}", optional), strength
