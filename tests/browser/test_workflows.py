"""Shipped workflows in the real frontend: they load whole, say what their API twins say, and make sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browserlib import COMPLAINTS, MISSING, as_prompt, drop, press_run, serialized

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
AUDIO = "() => [...document.querySelectorAll('audio')].map(a => a.duration)"
REPORTS = """() => Object.fromEntries(window.app.graph._nodes.map(
  n => [n.type, n.widgets?.find(w => w.name === 'report')?.value]))"""


def contents(file):
    return json.loads(file.read_text())


@pytest.fixture(params=WORKFLOWS, ids=lambda file: file.stem)
def file(request, page):
    """A workflow, dropped on the canvas."""
    drop(page, request.param, len(contents(request.param)["nodes"]))
    return request.param


def test_no_node_is_missing(page, file):
    assert page.evaluate(MISSING) == []
    assert page.evaluate(COMPLAINTS) == []


def test_an_unknown_node_would_be_noticed(page, file, tmp_path):
    broken = contents(file)
    broken["nodes"][0]["type"] = "ACEStepNoSuchNode"
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    drop(page, tmp_path / "broken.json", len(broken["nodes"]))
    assert page.evaluate(MISSING) == ["ACEStepNoSuchNode"]
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)


def test_canvas_says_what_the_api_twin_says(page, file):
    assert as_prompt(page) == contents(file.parent / "api" / file.name)


def test_run_makes_sound_of_the_right_length(page, file):
    ending, detail = press_run(page, 300)
    assert ending == "execution_success", detail
    page.wait_for_function("() => [...document.querySelectorAll('audio')].some(a => a.duration > 0)")
    assert page.evaluate(AUDIO) == [30.0]
    reports = page.evaluate(REPORTS)
    assert "variant: turbo" in reports["ACEStepLoadDiT"]
    assert "8 steps, shift 3, euler" in reports["ACEStepDiTSample"]


def test_reports_are_not_saved(page, file):
    """The report widgets that a run adds are neither in the saved workflow nor in the prompt."""
    assert press_run(page, 300)[0] == "execution_success"
    page.wait_for_timeout(500)
    saved = {node["id"]: node.get("widgets_values") or [] for node in serialized(page)["nodes"]}
    assert saved == {node["id"]: node.get("widgets_values") or [] for node in contents(file)["nodes"]}
    assert as_prompt(page) == contents(file.parent / "api" / file.name)
