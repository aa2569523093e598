"""The planner plans while the decoder's files are still read: a disk that would need minutes holds nobody up."""

from __future__ import annotations

import json
import time

import prompts as p
import pytest
import torch
from hostlib import MODEL, ROOT, Host, extra_model_paths, link_models
from safetensors.torch import load_file, save_file

SONG = {"caption": "calm piano", "lyrics": "[Verse]\nla la la", "seconds": 10.0}
BROKEN = "acestep_v1.5_broken.safetensors"
FILE, SWITCH = "reads.jsonl", "slow_disk"  # as in slowpack


@pytest.fixture(scope="module")
def slow_host(comfy, tmp_path_factory, tiny_2b_split):
    """A host of its own, whose disk is slow while `slow_disk` says so."""
    base, models = tmp_path_factory.mktemp("slow_base"), tmp_path_factory.mktemp("slow_models")
    link_models(models, tiny_2b_split)
    tensors = load_file(tiny_2b_split.model)
    tensors["decoder.proj_in.1.weight"] = tensors["decoder.proj_in.1.weight"][:-1].contiguous()
    save_file(tensors, models / "diffusion_models" / BROKEN)
    paths = extra_model_paths(base / "paths.yaml", models)
    packs = (ROOT, ROOT / "tests/host/slowpack")
    with Host(base, packs, extra=["--extra-model-paths-config", str(paths)]) as running:
        yield running


@pytest.fixture
def slow_disk(slow_host):
    """Rows of what was read since the test began; the disk is fast again afterwards."""
    (slow_host.base / "output" / SWITCH).touch()
    log = slow_host.base / "output" / FILE
    log.unlink(missing_ok=True)
    yield lambda: [json.loads(line) for line in log.read_text().splitlines()]
    (slow_host.base / "output" / SWITCH).unlink()


def planned(seed, **loader):
    return p.latent_only(p.planned(p.song(seed=3, loader=loader, **SONG), write={"seed": seed}), f"ahead_{seed}")


def latents(host, run):
    assert run.ok, run.message
    saved = run.outputs[p.SAVE]["latents"][0]
    return load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"]


def when(run, kind, node):
    """When the host told first that it began ("executing") or had done ("executed") a node."""
    return next(event["at"] for event in run.events if event["type"] == kind and event["data"].get("node") == node)


def ended(rows, within=5.0):
    """Waits until every file that was opened is closed, and returns all rows."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        found = rows()
        if [row["what"] for row in found].count("open") == [row["what"] for row in found].count("close"):
            return found
        time.sleep(0.05)
    raise AssertionError("files are still read")


def of(rows, file):
    """What was done with one file."""
    return [row["what"] for row in rows if row["file"] == file]


def test_the_planner_does_not_wait_for_the_decoders_files(slow_host, slow_disk):
    """The same song as from a fast disk; the files are read beside the nodes, and no longer than the prompt runs."""
    run = slow_host.run(planned(50))
    rows = ended(slow_disk)
    assert when(run, "executing", p.LOAD) < when(run, "executing", p.PLAN_SONG)
    assert rows[0]["at"] < when(run, "executing", p.PLAN_SONG)
    assert when(run, "executed", p.PLAN_SONG) < when(run, "executed", p.LOAD) < when(run, "executing", p.SAMPLE)
    # The prompt was over first; how far the thread had come by then depends on the machine.
    assert "read" in {row["what"] for row in rows} and "end" not in of(rows, MODEL)
    assert rows[-1]["at"] - run.events[-1]["at"] < 2.0
    (slow_host.base / "output" / SWITCH).rename(slow_host.base / "output" / "fast")
    fast = slow_host.run(planned(50, precision="fp32"))  # auto is fp32 on the CPU: built again, the same numbers
    (slow_host.base / "output" / "fast").rename(slow_host.base / "output" / SWITCH)
    assert p.LOAD not in fast.cached and torch.equal(latents(slow_host, run), latents(slow_host, fast))


def test_cancel_while_files_are_read(slow_host, slow_disk):
    """The button ends planner and reading alike, and what comes next is a good song."""
    pressed = []

    def press(running, event):
        if event["type"] == "progress" and event["data"]["node"] == p.WRITE_CODES and not pressed:
            pressed.append(event["at"])
            running.post("/interrupt", {})

    long = p.planned(p.song(seed=3, loader={"variant": "turbo"}, **{**SONG, "seconds": 120.0}), write={"seed": 51})
    run = slow_host.run(p.latent_only(long, "cancelled"), on_event=press)
    assert pressed and run.events[-1]["type"] == "execution_interrupted"
    assert run.events[-1]["at"] - pressed[0] < 3.0
    rows = ended(slow_disk)
    assert rows[-1]["at"] - run.events[-1]["at"] < 2.0
    again = slow_host.run(planned(52, variant="turbo"))
    assert again.ok, again.message
    twice = slow_host.run(planned(53, variant="turbo"))
    assert twice.ok and {p.LOAD, p.LM, p.PLAN_SONG} <= twice.cached


@pytest.mark.parametrize(
    ("choice", "words", "planned_before"),
    [("gone.safetensors", "gone.safetensors", False), (BROKEN, "proj_in", True)],
    ids=["no such file", "weights that do not fit"],
)
def test_an_error_is_told_at_the_loader(slow_host, choice, words, planned_before):
    """A wrong choice at once, before anybody plans; and the host goes on."""
    prompt = planned(54, model=choice, variant="turbo")
    prompt[p.PLAN_SONG]["inputs"]["seed"] = 1000 + len(choice)  # not from the cache
    run = slow_host.run(prompt)
    (error,) = run.of("execution_error") or [None]
    assert error is not None, run.message
    assert error["node_id"] == p.LOAD and error["node_type"] == "ACEStepLoadDiT" and words in run.message
    begun = {event["data"].get("node") for event in run.events if event["type"] == "executing"}
    assert (p.PLAN_SONG in begun) == planned_before
    assert "never retrieved" not in slow_host.log and "was destroyed" not in slow_host.log
    assert slow_host.run(planned(55)).ok


def test_two_loaders_of_one_file(slow_host, slow_disk):
    """Both read it at once; the second is no copy of the first, and the songs are the same."""
    prompt = planned(56, precision="bf16")
    others = {"101": p.load(precision="bf16", model=MODEL), "103": {**prompt[p.SAMPLE]}, "106": {**prompt[p.SAVE]}}
    others["101"]["inputs"]["variant"] = "turbo"
    links = {"model": ["101", 0], "conditioner": ["101", 1]}
    others["103"] = {**others["103"], "inputs": {**others["103"]["inputs"], **links}}
    others["106"] = p.node("SaveLatent", samples=["103", 0], filename_prefix="latents/second")
    run = slow_host.run({**prompt, **others})
    assert run.ok, run.message
    first, second = (run.outputs[key]["latents"][0] for key in (p.SAVE, "106"))
    files = [slow_host.base / saved["type"] / saved["subfolder"] / saved["filename"] for saved in (first, second)]
    assert torch.equal(*(load_file(file)["latent_tensor"] for file in files))
    assert [row["what"] for row in ended(slow_disk)].count("open") >= 3  # two decoders and the planner
