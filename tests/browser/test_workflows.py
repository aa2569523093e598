"""Shipped workflows in the real frontend: they load whole, say what their API twins say, and make sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from author import TAKES
from browserlib import COMPLAINTS, MISSING, as_prompt, drop, press_run, serialized, show_all
from sounds import SECONDS

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
LOADED = "count => [...document.querySelectorAll('audio')].filter(a => a.duration > 0).length >= count"
AUDIO = "() => [...document.querySelectorAll('audio')].map(a => a.duration)"
SAID = {
    "ACEStepDiTSample": "8 steps, shift 3, euler",
    "ACEStepCover": "follows its audio codes in 8 of 8 steps",
    "ACEStepExtend": "new: 10.1 to 40.1 s, 40.1 s in all",
    "ACEStepSeparateStems": "residual: peak ",
    "ACEStepComplete": "plays: woodwinds, brass",
    "ACEStepRepaint": "new: 4 to 7 s of 10.1 s",
    "ACEStepAddTrack": "bass all along",
    "ACEStepApplyLoRA": "matched: 32 of 32 modules",
    "ACEStepRetake": "retake: variance 0.3 towards seed",
    "ACEStepMorph": "turned in 6 of 8 steps, from t 0.900",
    "ACEStepCutSong": "kept: 0.00 to 16.00 s, 8.00 to 16.00 s of 32 s",
    "ACEStepLoopSong": "2 times 2.00 to 6.00 s",
    "ACEStepJoinSongs": "24 s and 8 s, overlapping for 0.5 s",
    "ACEStepLoadLM": "planner: qwen_1.7b_ace15.safetensors",
    "ACEStepPlanSong": "(filled in)",
    "ACEStepWriteCodes": "150 codes",
    "ACEStepUnderstandAudio": "read: 51 codes of the source",
    "ACEStepLabelDataset": "labelled: 2 of 2 songs",
    "ACEStepTrainLoRA": "saved: loras/my_style_00001_.safetensors",
}
# What the players on the canvas hold, that of Load Audio included; latents of a source are whole frames of 0.04 s.
FRAMES = 10.08
PLAYERS = {
    "understand_audio": [SECONDS],
    "reference": [SECONDS, 30.0],
    "cover": [SECONDS, FRAMES],
    "morph": [SECONDS, FRAMES],
    "repaint": [SECONDS, SECONDS],
    "extend": [SECONDS, SECONDS + 30],
    "song_tools": [SECONDS, 31.5],
    "vocal_to_song": [SECONDS, FRAMES],
    "add_track": [SECONDS, FRAMES, SECONDS],
    "stems": [SECONDS] * 3,
}
FEWER = {"train_lora": ("ACEStepTrainLoRA", "steps", 6)}  # than the file says: its own number takes minutes
SEED = {"ACEStepRetake": "retake_seed"}  # the one that a run changes; of the others it is seed
ON_BASE = ("stems", "vocal_to_song", "add_track")
SET = """([type, name, value]) => { const node = window.app.graph._nodes.find(n => n.type === type);
  const widget = node.widgets.find(w => w.name === name), before = widget.value;
  widget.value = value; return before; }"""
# Pictures and steps that arrive while TrainLoRA runs; those of other nodes do not count.
WATCH = """() => { window.__pictures = 0; window.__step = 0;
  const of = e => window.app.graph._nodes.find(n => n.id == (e.detail.nodeId ?? e.detail.node))?.type;
  const mine = e => of(e) === 'ACEStepTrainLoRA';
  window.app.api.addEventListener('b_preview_with_metadata', e => { if (mine(e)) window.__pictures += 1; });
  window.app.api.addEventListener('progress', e => { if (mine(e) && e.detail.max > 1000) window.__step = e.detail.value;
  }); }"""
BUTTON = """name => { const node = window.app.graph._nodes.find(n => n.type === 'ACEStepTrainLoRA');
  const widget = node.widgets.find(w => w.name === name), view = window.app.canvas.ds;
  const canvas = window.app.canvas.canvas.getBoundingClientRect(), y = (widget.y ?? widget.last_y) + 10;
  return [canvas.x + (node.pos[0] + node.size[0] / 2 + view.offset[0]) * view.scale,
    canvas.y + (node.pos[1] + y + view.offset[1]) * view.scale]; }"""
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


def test_run_makes_sound_of_the_right_length_and_saves_no_reports(page, file, browser_host):
    """One run for both: some workflows take a minute."""
    browser_host.post("/free", {"unload_models": True, "free_memory": True})  # what is cached says nothing
    page.wait_for_timeout(1000)
    usual = page.evaluate(SET, FEWER[file.stem]) if file.stem in FEWER else None
    page.evaluate(WATCH)
    ending, detail = press_run(page, 600)
    assert ending == "execution_success", detail
    if file.stem in FEWER:
        assert page.evaluate("() => window.__pictures") > 0
        page.evaluate(SET, [*FEWER[file.stem][:2], usual])
    players = PLAYERS.get(file.stem, [30.0])
    page.wait_for_function(LOADED, arg=len(players))
    assert sorted(page.evaluate(AUDIO)) == pytest.approx(sorted(players))
    reports = page.evaluate(REPORTS)
    assert f"variant: {'base' if file.stem in ON_BASE else 'turbo'}" in reports["ACEStepLoadDiT"]
    for kind, words in SAID.items():
        assert kind not in reports or words in reports[kind], kind
    check_nothing_saved(page, file)


@pytest.mark.parametrize("file", [WORKFLOWS[0].with_name("train_lora.json")], indirect=True, ids=["train_lora"])
def test_stop_and_keep_is_a_button_that_ends_the_run_with_a_result(page, file):
    for name, value in (("name", "stopped"), ("steps", 5000)):
        page.evaluate(SET, ["ACEStepTrainLoRA", name, value])
    page.evaluate(WATCH)
    show_all(page)
    page.evaluate("() => { window.__events.length = 0; }")
    page.locator("[data-testid='queue-button']").first.click()
    page.wait_for_function("() => window.__step >= 3", timeout=120_000)
    page.mouse.click(*page.evaluate(BUTTON, "stop and keep"))
    page.wait_for_function("() => window.__events.length > 0", timeout=120_000)
    kind, detail = page.evaluate("() => window.__events[0]")
    assert kind == "execution_success", detail
    page.wait_for_timeout(500)
    report = page.evaluate(REPORTS)["ACEStepTrainLoRA"]
    assert "of 5000 steps; what was learned is kept" in report and "saved: loras/stopped_00001_" in report


def check_nothing_saved(page, file):
    """The report widgets that a run adds are neither in the saved workflow nor in the prompt."""
    page.wait_for_timeout(500)
    assert widget_values(serialized(page)) == widget_values(contents(file))
    prompt, twin = as_prompt(page), contents(file.parent / "api" / file.name)
    for node in (*prompt.values(), *twin.values()):
        if node["class_type"] in TAKES:
            assert node["inputs"].pop(SEED.get(node["class_type"], "seed")) >= 0
    assert prompt == twin


def widget_values(workflow):
    """Of every node; less the seed that is another one after each run, and the blank values of buttons and players."""
    values = {node["id"]: (node["type"], node.get("widgets_values") or []) for node in workflow["nodes"]}
    kept = {key: _without_seed(found) if kind in TAKES else found for key, (kind, found) in values.items()}
    return {key: [value for value in found if value is not None and value != ""] for key, found in kept.items()}


def _without_seed(values):
    """All but the value before "randomize"."""
    place = values.index("randomize") - 1
    return [*values[:place], *values[place + 1 :]]
