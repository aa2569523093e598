"""Shipped workflow files against the host's schemas, without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from hostlib import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("MarkdownNote", "Note")
FRONTEND_ONLY = {"audioUI", "upload"}
# A new run is another take of the same song: these seeds change, and nobody else's does.
TAKES = {
    ("ACEStepDiTSample", "seed"),
    ("ACEStepCover", "seed"),
    ("ACEStepExtend", "seed"),
    ("ACEStepRepaint", "seed"),
    ("ACEStepAddTrack", "seed"),
    ("ACEStepComplete", "seed"),
    ("ACEStepRetake", "retake_seed"),
    ("ACEStepMorph", "seed"),
}
BRIEF = {"ACEStepTrainLoRA": {"steps": 8, "name": "twin"}}  # what would take minutes
SECOND = 48_000
# Samples of what each saves; a source has 10.1 s, and its latents are 10.08 s.
LENGTHS = {
    "text_to_song": [30 * SECOND],
    "reference": [30 * SECOND],
    "retake": [30 * SECOND],
    "use_lora": [30 * SECOND],
    "train_lora": [30 * SECOND],
    "cover": [483_840],
    "repaint": [484_800],
    "extend": [484_800 + 30 * SECOND],
    "morph": [483_840],
    "song_tools": [31 * SECOND + SECOND // 2],
    "vocal_to_song": [483_840],
    "add_track": [483_840, 484_800],
    "stems": [484_800] * 5,
}
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


@pytest.fixture(scope="session")
def info(host):
    """All schemas."""
    return host.get("/object_info")


def twin(file: Path) -> dict:
    """The API prompt of a workflow."""
    return json.loads((file.parent / "api" / file.name).read_text())


def spec_of(info: dict, kind: str) -> dict:
    """Every input of a node in its order."""
    groups = info[kind]["input"]
    return {name: spec for group in ("required", "optional") for name, spec in groups.get(group, {}).items()}


def widget_values(node: dict, spec: dict) -> dict:
    """Widget values by input name; a seed is followed by what happens to it after a run."""
    named, left = {}, list(node.get("widgets_values") or [])
    for name, (kind, *rest) in spec.items():
        if (isinstance(kind, list) or kind in WIDGETS) and not (rest and rest[0].get("forceInput")):
            named[name] = left.pop(0)
            if name in ("seed", "noise_seed", "retake_seed"):
                after = "randomize" if (node["type"], name) in TAKES else "fixed"
                assert left.pop(0) == after, node["type"]
    assert set(left) <= {"", None}, f"too many widget values: {left}"
    return named


@each_workflow
def test_has_a_twin_a_picture_and_a_note(file):
    assert twin(file)
    assert file.with_suffix(".jpg").read_bytes()[:3] == b"\xff\xd8\xff"  # the template browser asks for .jpg
    notes = [node for node in json.loads(file.read_text())["nodes"] if node["type"] in NOTES]
    assert "huggingface.co/Comfy-Org/ace_step_1.5_ComfyUI_files" in notes[0]["widgets_values"][0]


@each_workflow
def test_says_what_its_twin_says(file, info):
    workflow, prompt = json.loads(file.read_text()), twin(file)
    nodes = {str(node["id"]): node for node in workflow["nodes"] if node["type"] not in NOTES}
    assert {key: node["type"] for key, node in nodes.items()} == {k: n["class_type"] for k, n in prompt.items()}
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for key, node in nodes.items():
        given = widget_values(node, spec_of(info, node["type"]))
        given |= {i["name"]: links[i["link"]] for i in node["inputs"] if i.get("link") is not None}
        assert given == prompt[key]["inputs"], node["type"]


@each_workflow
def test_fits_the_schemas(file, info):
    for node in json.loads(file.read_text())["nodes"]:
        if node["type"] in NOTES:
            continue
        spec = spec_of(info, node["type"])
        assert {socket["name"] for socket in node["inputs"]} - FRONTEND_ONLY == set(spec)
        assert [socket["type"] for socket in node["outputs"]] == info[node["type"]]["output"]
        for name, value in widget_values(node, spec).items():
            kind, *rest = spec[name]
            options = kind if isinstance(kind, list) else (rest[0] if rest else {}).get("options")
            assert not options or value in options, (node["type"], name, value)


@each_workflow
def test_uses_only_the_pack_and_the_host(file, info):
    kinds = {node["class_type"] for node in twin(file).values()}
    modules = {info[kind]["python_module"] for kind in kinds}
    assert all(
        module == "custom_nodes.ComfyUI-ACEStep" or module.startswith(("nodes", "comfy_extras")) for module in modules
    )


@each_workflow
def test_twin_runs(host, file):
    prompt = twin(file)
    for node in prompt.values():
        node["inputs"] |= BRIEF.get(node["class_type"], {})
    run = host.run(prompt, timeout=300)
    assert run.ok, run.message
    sounds = [key for key, node in prompt.items() if node["class_type"] == "SaveAudio"]
    plans = [key for key, node in prompt.items() if node["class_type"] == "ACEStepSaveBlueprint"]
    assert sounds or plans
    files = [saved for key in sounds for saved in host.files(run, key)]
    assert all(saved.stat().st_size > 100_000 for saved in files)
    assert file.stem not in LENGTHS or sorted(map(samples, files)) == LENGTHS[file.stem]
    assert all("saved: " in run.text(key) for key in plans)


def samples(path):
    """How long a sound file is, counted frame by frame."""
    with av.open(str(path)) as opened:
        return sum(frame.samples for frame in opened.decode(opened.streams.audio[0]))
