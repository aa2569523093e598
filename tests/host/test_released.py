"""What was released stays: every node of it, every widget in its place, every workflow that was shipped.

`python tools/release.py` freezes a version; nothing else writes here.
"""

from __future__ import annotations

import copy
import json
import math

import pytest
from hostlib import ROOT
from test_load import recorded
from test_workflow import FRONTEND_ONLY, NOTES, WIDGETS, spec_of

RELEASED = sorted((ROOT / "tests/released").glob("*.json"))
NODES = [(file.stem, node) for file in RELEASED for node in json.loads(file.read_text(encoding="utf-8"))]
WORKFLOWS = sorted((ROOT / "tests/workflows").glob("*/*.json"))
SHIPPED = ROOT / "workflows/api"
SEEDS = ("seed", "noise_seed", "retake_seed")
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: f"{file.parent.name}-{file.stem}")


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
        f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
        for key in ("type", "default", "control_after_generate", "forceInput")
        if now.get(key) != was.get(key)
    ]
    if was.get("group") == "optional" and now.get("group") == "required":
        faults.append("was optional, is required")
    options = now.get("options", [])
    faults += [f"no longer takes {option!r}" for option in was.get("options", []) if option not in options]
    if now.get("min", -math.inf) > was.get("min", -math.inf):
        faults.append(f"no longer goes down to {was.get('min')}")
    if now.get("max", math.inf) < was.get("max", math.inf):
        faults.append(f"no longer goes up to {was.get('max')}")
    return faults


@pytest.mark.parametrize(("version", "node"), NODES, ids=lambda value: value)
def test_node_takes_what_it_took(host, version, node):
    before = json.loads((ROOT / "tests/released" / f"{version}.json").read_text(encoding="utf-8"))[node]
    registered = host.get(f"/object_info/{node}")
    assert node in registered, f"{node} was released in {version}: ids never go"
    now = json.loads(json.dumps(recorded(registered[node])))
    assert broken(before, now) == []


@each_workflow
def test_old_workflow_loads(host, file):
    """Every node is there, with the sockets that are linked and as many widget values as there were."""
    info = host.get("/object_info")
    for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] in NOTES:
            continue
        spec = spec_of(info, node["type"])
        assert {socket["name"] for socket in node["inputs"]} - FRONTEND_ONLY <= set(spec)
        outputs = [socket["type"] for socket in node["outputs"]]
        assert info[node["type"]]["output"][: len(outputs)] == outputs
        check_values(node, spec)


def check_values(node: dict, spec: dict) -> None:
    """Saved values are taken by position: each must fit the widget that stands there now."""
    left = list(node.get("widgets_values") or [])
    for name, (kind, *rest) in spec.items():
        options = rest[0] if rest else {}
        if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
            continue
        if not left:
            break  # the rest was appended later
        value, choices = left.pop(0), kind if isinstance(kind, list) else options.get("options")
        assert not choices or value in choices, (node["type"], name, value)
        if "min" in options:
            assert options["min"] <= value <= options.get("max", math.inf), (node["type"], name, value)
        if name in SEEDS:
            assert left.pop(0) in ("fixed", "randomize"), (node["type"], name)
    assert set(left) <= {"", None}, f"{node['type']}: too many widget values: {left}"


@each_workflow
def test_old_workflow_runs(host, file):
    """Through the API; a twin that is still shipped as it was is run by test_workflow.py."""
    twin = (file.parent / "api" / file.name).read_bytes()
    shipped = SHIPPED / file.name
    if shipped.exists() and shipped.read_bytes() == twin:
        return
    run = host.run(json.loads(twin), timeout=300)
    assert run.ok, run.message


def test_this_version_is_frozen():
    versions = {file.stem for file in RELEASED}
    assert "0.1.0" in versions
    assert {folder.name for folder in (ROOT / "tests/workflows").iterdir()} == versions
    for version in versions:
        assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        folder = ROOT / "tests/workflows" / version
        assert {file.name for file in folder.glob("*.json")} == {file.name for file in folder.glob("api/*.json")}


def test_a_break_would_be_noticed():
    before = json.loads(RELEASED[0].read_text(encoding="utf-8"))["ACEStepCover"]
    assert broken(before, before) == []
    for change, fault in CHANGES.items():
        now = copy.deepcopy(before)
        change(now)
        assert any(fault in said for said in broken(before, now)), fault


def test_an_append_is_allowed():
    before = json.loads(RELEASED[0].read_text(encoding="utf-8"))["ACEStepCover"]
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


def _count(now):
    now["inputs"]["strength"]["control_after_generate"] = True  # one saved value more


def _socket(now):
    now["inputs"]["strength"]["forceInput"] = True  # one saved value less


def _output(now):
    now["outputs"][0] = ["audio", "AUDIO"]


CHANGES = {
    _remove: "begin with",
    _insert: "begin with",
    _demand: "new and required",
    _default: "default was 1.0",
    _bound: "no longer goes up to 1.0",
    _count: "control_after_generate was None",
    _socket: "forceInput was None",
    _output: "outputs: were",
}
