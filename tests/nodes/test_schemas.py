"""Every node is explained, and says the numbers of the tables."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
from hostlib import ROOT

NODES = (
    "LoadDiT",
    "LoadLM",
    "SpeedUp",
    "ApplyLoRA",
    "HookLoRA",
    "InspectLoRA",
    "ConvertLoRA",
    "MergeLoRAs",
    "ExtractLoRA",
    "Blueprint",
    "PlanSong",
    "WriteCodes",
    "UnderstandAudio",
    "ScoreSongs",
    "ChooseBest",
    "EditBlueprint",
    "SaveBlueprint",
    "LoadBlueprint",
    "BlueprintValues",
    "EncodeSource",
    "LatentSource",
    "EncodeReference",
    "SamplingOptions",
    "EncodeSong",
    "Guider",
    "Schedule",
    "DiTSample",
    "Cover",
    "Repaint",
    "Extend",
    "SeparateStems",
    "AddTrack",
    "Complete",
    "Retake",
    "AdjustLatent",
    "Morph",
    "SpanMask",
    "DecodeAudio",
    "Loudness",
    "CutSong",
    "LoopSong",
    "JoinSongs",
    "BuildDataset",
    "LabelDataset",
    "SaveDataset",
    "TrainingOptions",
    "TrainLoRA",
)


@pytest.fixture(params=NODES)
def schema(request, pack):
    """The schema of one node."""
    return getattr(pack(""), request.param).define_schema()


def test_the_list_is_the_one_tested_here(pack):
    extension = asyncio.run(pack("").ACEStepExtension().get_node_list())
    assert tuple(node.__name__ for node in extension) == NODES


def test_node_is_explained(schema):
    assert re.fullmatch(r"ACEStep[A-Z]\w+", schema.node_id)
    assert schema.display_name.startswith("ACE-Step 1.5 ")
    assert schema.category == "audio/ACE-Step 1.5"
    assert schema.description.endswith(".") and 40 < len(schema.description) < 400


def test_every_socket_has_a_tooltip(schema):
    for socket in (*schema.inputs, *schema.outputs):
        assert socket.tooltip and socket.tooltip.endswith("."), (schema.node_id, socket.id)


def test_help_page_names_every_input_and_output(schema):
    page = (ROOT / "web/docs" / f"{schema.node_id}.md").read_text()
    assert page.startswith(f"# {schema.display_name}\n")
    for socket in schema.inputs:
        if socket.id not in ("conditioner", "blueprint", "vae"):
            assert re.search(rf"\b{socket.id}\b", page), socket.id


def test_no_page_without_a_node():
    assert {page.stem for page in (ROOT / "web/docs").glob("*.md")} == {f"ACEStep{name}" for name in NODES}


def test_sockets_are_in_the_order_of_execute(schema, pack):
    node = getattr(pack(""), schema.node_id.removeprefix("ACEStep"))
    code = node.execute.__func__.__code__
    assert [socket.id for socket in schema.inputs] == list(code.co_varnames[1 : code.co_argcount])


def test_tooltips_list_every_variant_with_its_number(pack, core):
    tips = {socket.id: socket.tooltip for socket in pack("").SamplingOptions.define_schema().inputs}
    for name, variant in core("tasks").VARIANTS.items():
        for socket, number in (("steps", variant.steps), ("shift", variant.shift), ("scale", variant.guidance)):
            group = next(part for part in re.split(r"[:;] ", tips[socket]) if re.search(rf"\b{name}(,|\.|$)", part))
            assert group.startswith(f"{number:g} for "), (name, tips[socket])


def test_what_a_host_does_not_know_is_left_out(pack, monkeypatch):
    tools = pack("host.schema")
    known = tools.io.Schema.__dataclass_fields__
    fields = {name: field for name, field in known.items() if name != "description"}
    kept = {}
    fake = SimpleNamespace(Schema=lambda **given: kept.update(given))
    fake.Schema.__dataclass_fields__ = fields
    monkeypatch.setattr(tools, "io", fake)
    tools.schema(node_id="X", description="gone", display_name="stays", no_such_field=1)
    assert kept["node_id"] == "X" and kept["display_name"] == "stays"
    assert not {"description", "no_such_field"} & set(kept)


def test_an_input_option_that_a_host_does_not_know_is_left_out(pack):
    tools = pack("host.schema")
    made = tools.socket(tools.io.Int, "steps", default=3, no_such_option=True)
    assert (made.id, made.default) == ("steps", 3)
