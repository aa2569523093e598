"""What was released stays: every node of it, every widget in its place, every workflow that was shipped.

`python tools/release.py` freezes a version; nothing else writes here.
"""

from __future__ import annotations

import copy
import json

import pytest
from hostlib import ROOT
from test_load import recorded

RELEASED = sorted((ROOT / "tests/released").glob("*.json"))
NODES = [(file.stem, node) for file in RELEASED for node in json.loads(file.read_text())]
TWINS = sorted((ROOT / "tests/workflows").glob("*/api/*.json"))
SHIPPED = ROOT / "workflows/api"
# A twin that is still shipped as it was is run by test_workflow.py.
CHANGED = [
    file
    for file in TWINS
    if not (SHIPPED / file.name).exists() or (SHIPPED / file.name).read_bytes() != file.read_bytes()
]


def broken(before: dict, now: dict) -> list[str]:
    """What a workflow saved with the schema `before` would stumble over in the schema `now`."""
    faults = []
    places = list(now["inputs"])[: len(before["inputs"])]
    if places != list(before["inputs"]):
        faults.append(f"inputs: were {list(before['inputs'])}, begin with {places}")
    for name, was in before["inputs"].items():
        faults += [f"{name}: {fault}" for fault in changed(was, now["inputs"].get(name, {}))]
    new = list(now["inputs"])[len(before["inputs"]) :]
    faults += [f"{name}: new and required" for name in new if now["inputs"][name]["group"] == "required"]
    if now["outputs"][: len(before["outputs"])] != before["outputs"]:
        faults.append(f"outputs: were {before['outputs']}, are {now['outputs']}")
    return faults


def changed(was: dict, now: dict) -> list[str]:
    """What a saved value or link of one input would stumble over."""
    faults = [
        f"{key} was {was[key]!r}, is {now.get(key)!r}"
        for key in ("type", "default", "control_after_generate", "forceInput")
        if key in was and now.get(key) != was[key]
    ]
    if was.get("group") == "optional" and now.get("group") == "required":
        faults.append("was optional, is required")
    options = now.get("options", [])
    faults += [f"no longer takes {option!r}" for option in was.get("options", []) if option not in options]
    if "min" in was and now.get("min", was["min"]) > was["min"]:
        faults.append(f"no longer goes down to {was['min']}")
    if "max" in was and now.get("max", was["max"]) < was["max"]:
        faults.append(f"no longer goes up to {was['max']}")
    return faults


@pytest.mark.parametrize(("version", "node"), NODES, ids=lambda value: value)
def test_node_takes_what_it_took(host, version, node):
    before = json.loads((ROOT / "tests/released" / f"{version}.json").read_text())[node]
    registered = host.get(f"/object_info/{node}")
    assert node in registered, f"{node} was released in {version}: ids never go"
    now = json.loads(json.dumps(recorded(registered[node])))
    assert broken(before, now) == []


@pytest.mark.parametrize("file", CHANGED, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_old_workflow_runs(host, file):
    run = host.run(json.loads(file.read_text()), timeout=300)
    assert run.ok, run.message


def test_this_version_is_frozen():
    versions = {file.stem for file in RELEASED}
    assert "0.1.0" in versions
    assert {folder.name for folder in (ROOT / "tests/workflows").iterdir()} == versions
    for version in versions:
        assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
        folder = ROOT / "tests/workflows" / version
        assert {file.name for file in folder.glob("*.json")} == {file.name for file in folder.glob("api/*.json")}


def test_a_break_would_be_noticed():
    before = json.loads(RELEASED[0].read_text())["ACEStepCover"]
    assert broken(before, before) == []
    for change, fault in CHANGES.items():
        now = copy.deepcopy(before)
        change(now)
        assert any(fault in said for said in broken(before, now)), fault


def test_an_append_is_allowed():
    before = json.loads(RELEASED[0].read_text())["ACEStepCover"]
    now = copy.deepcopy(before)
    now["inputs"]["swing"] = {"type": "FLOAT", "group": "optional", "default": 0.0}
    now["inputs"]["strength"]["max"] = 2.0
    now["outputs"].append(["report", "STRING"])
    assert broken(before, now) == []


def _remove(now):
    del now["inputs"]["strength"]


def _insert(now):
    now["inputs"] = {"swing": {"type": "FLOAT", "group": "optional"}, **now["inputs"]}


def _demand(now):
    now["inputs"]["swing"] = {"type": "FLOAT", "group": "required"}


def _default(now):
    now["inputs"]["strength"]["default"] = 0.5


def _bound(now):
    now["inputs"]["strength"]["max"] = 0.9


def _output(now):
    now["outputs"][0] = ["audio", "AUDIO"]


CHANGES = {
    _remove: "begin with",
    _insert: "begin with",
    _demand: "new and required",
    _default: "default was 1.0",
    _bound: "no longer goes up to 1.0",
    _output: "outputs: were",
}
