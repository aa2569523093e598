"""A run that goes on is the run that was never interrupted, bit by bit (spec/lora.md §6 tests 13 and 14)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from acestep_models.adapters.files import read_adapter
from acestep_models.training.around import Around
from acestep_models.training.checkpoint import load_moments
from acestep_models.training.job import TrainOptions, train
from acestep_models.training.optimizers import make_optimizer
from acestep_models.training.options import FREE

KIT = Path(__file__).with_name("kit.py")
# Four songs, six items a step: no step ends with an epoch.
EXACT = {"steps": 20, "accumulation": 3, "batch": 2, "dropout": 0.1, "checkpoint_every": 5}


def fresh(folder, **options):
    """The kit in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(KIT), str(folder), json.dumps(options)], env=environment)


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"kind": "lokr", "ema": 0.9, "validate_every": 5, "alpha": 3.0}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "prodigy", "learning_rate": 1.0, "crop_seconds": 0.8}, marks=pytest.mark.slow),
    ],
    ids=["lora", "lokr, averaged", "prodigy, crops"],
)
def test_some_steps_and_the_others_are_all(kit, tmp_path, last_state, metrics, same, more):
    """In one process; below in fresh ones."""
    options = {**EXACT, "steps": 6, **more}
    kit.run(tmp_path / "whole", **options)
    first = kit.run(tmp_path / "parts", watcher=kit.Watch(stop=2), **options)
    assert (first.steps, first.stopped) == (2, True)
    second = kit.run(tmp_path / "parts", **options)
    assert (second.steps, second.stopped) == (6, False)
    assert same(last_state(tmp_path / "whole"), last_state(tmp_path / "parts"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"kind": "lokr", "ema": 0.9, "alpha": 3.0}], ids=["lora", "lokr, averaged"])
def test_ten_steps_and_ten_more_in_a_fresh_process_are_twenty(tmp_path, last_state, metrics, same, more):
    for folder, stop in (("whole", None), ("parts", 10), ("parts", None)):
        assert fresh(tmp_path / folder, **EXACT, **more, stop=stop).wait(120) == 0
    assert json.loads((tmp_path / "parts" / "final" / "result.json").read_text())["steps"] == 20
    assert same(last_state(tmp_path / "whole"), last_state(tmp_path / "parts"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, last_state, metrics, same):
    """SIGKILL whenever: at start, while a run is taken up again (every third), in a step, in the middle of a
    checkpoint. What is left is whole and always goes on. Processes are forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "acestep_models.training.job"])

    def begin(folder):
        process = context.Process(target=runpy.run_path, args=(str(KIT), {"WORDS": [str(folder), text]}, "__main__"))
        process.start()
        return process

    options = {**EXACT, "steps": 240, "checkpoint_every": 1, "validate_every": 0}
    text = json.dumps(options)
    run, chance = tmp_path / "killed", random.Random(8)
    kills = reached = 0
    while kills < 20:
        process = begin(run)
        before, deadline, early = reached, time.monotonic() + 60, kills % 3 == 0
        while not early and reached == before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
            reached = newest_step(run)
        time.sleep(chance.uniform(0, 0.3))
        assert process.is_alive(), "the run must still be going on"
        process.kill()  # SIGKILL
        process.join()
        kills += 1
        assert newest_step(run) >= reached > before - early
        reached = newest_step(run)
        assert all(is_whole(path) for path in (run / "checkpoints").glob("step_*"))
    for process in (begin(run), begin(tmp_path / "whole")):
        process.join(300)
        assert process.exitcode == 0
    assert same(last_state(run), last_state(tmp_path / "whole"))
    assert metrics(run) == metrics(tmp_path / "whole")
    assert not list(run.rglob("*.tmp"))


def is_whole(folder):
    """By the hashes that it lists of itself."""
    files = json.loads((folder / "checkpoint.json").read_text())["files"]
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "checkpoint.json"}
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == {
        name: said["sha256"] for name, said in files.items()
    }


def newest_step(run):
    folders = [path for path in (run / "checkpoints").glob("step_*") if (path / "checkpoint.json").exists()]
    return max((int(path.name.removeprefix("step_")) for path in folders), default=0)


def damage_state(folder):
    path = folder / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])


def damage_adapter(folder):
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def forget_list(folder):
    (folder / "checkpoint.json").unlink()


@pytest.mark.parametrize(
    "damage", [damage_state, *(pytest.param(one, marks=pytest.mark.slow) for one in (damage_adapter, forget_list))]
)
def test_a_broken_checkpoint_is_passed_over(kit, tmp_path, last_state, metrics, same, damage):
    kit.run(tmp_path / "whole")
    kit.run(tmp_path / "broken", watcher=kit.Watch(stop=4))
    damage(tmp_path / "broken" / "checkpoints" / "step_000004")
    left = tmp_path / "broken" / "checkpoints" / f".step_000006.{32 * 'a'}.tmp"
    left.mkdir()
    watch = kit.Watch()
    kit.run(tmp_path / "broken", watcher=watch)
    assert "step_000004 is not whole" in watch.words[0]
    assert (watch.plans[0].start, [point.step for point in watch.plans[0].history]) == (2, [1, 2])
    assert not left.exists()
    assert same(last_state(tmp_path / "whole"), last_state(tmp_path / "broken"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")


@pytest.mark.slow
def test_the_newest_and_the_best_checkpoints_stay(kit, tmp_path):
    kit.run(tmp_path / "run", steps=7, checkpoint_every=1, validate_every=2, keep=2, learning_rate=0.05, clip=0.0)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation"] for line in lines if line["validation"] is not None}
    assert sorted(losses) == [1, 2, 3, 4, 5, 6, 7]  # at each checkpoint
    best = min(losses, key=losses.get)
    assert left == [f"step_{step:06d}" for step in sorted({best, 6, 7})]


def test_every_checkpoint_is_validated_and_the_best_is_named(kit, tmp_path, metrics):
    run = tmp_path / "run"
    result = kit.run(run, steps=6, checkpoint_every=2, validate_every=100, keep=1, learning_rate=0.05, clip=0.0)
    losses = {line["step"]: line["validation"] for line in metrics(run) if line["validation"] is not None}
    assert sorted(losses) == [2, 4, 6]
    best = min(losses, key=losses.get)
    folder = run / "checkpoints" / f"step_{best:06d}"
    assert {path.name for path in folder.parent.glob("step_*")} == {folder.name, "step_000006"}
    assert result.notes == (f"The validation loss is lowest, {losses[best]:.6g}, in {folder}.",)


def test_a_checkpoint_of_an_average_holds_the_average(kit, tmp_path, last_state, same):
    """The adapter is what was validated; the parameters as they are trained are beside it."""
    watch = kit.Watch()
    result = kit.run(tmp_path / "run", watcher=watch, ema=0.9, steps=2, learning_rate=0.01, validate_every=2)
    adapter, state = last_state(tmp_path / "run")
    checkpoint = read_adapter(tmp_path / "run" / "checkpoints" / "step_000002")
    for name, delta in read_adapter(result.folder).deltas.items():
        assert torch.equal(delta.up, checkpoint.deltas[name].up)
        assert torch.equal(delta.down, checkpoint.deltas[name].down)
    assert len(state["parameters"]) == len(adapter)
    up = next(name for name in state["parameters"] if name.endswith("up"))
    assert not torch.equal(state["parameters"][up], checkpoint.deltas[up.removesuffix(".up")].up)
    kit.run(tmp_path / "plain", steps=2, learning_rate=0.01)
    assert same(state["optimizer"], last_state(tmp_path / "plain")[1]["optimizer"])
    assert last_state(tmp_path / "plain")[1]["parameters"] is None


CHANGED = {
    "steps": 6,
    "recompute": "on",
    "checkpoint_every": 3,
    "keep": 1,
    "validate_every": 2,
    "sample_every": 2,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "steps" else pytest.mark.slow) for name in sorted(FREE)]
)
def test_what_is_free_may_change_on_resume(kit, tmp_path, last_state, same, name):
    """And what is learned does not; `steps` changes the schedule, so it is only asked to go on."""
    options = {"steps": 4, "learning_rate": 1e-3}
    first = kit.run(tmp_path / "run", watcher=kit.Watch(stop=2), **options)
    watch = kit.Watch()
    second = kit.run(tmp_path / "run", watcher=watch, **{**options, name: CHANGED[name]})
    assert (first.steps, watch.plans[0].start, second.steps) == (2, 2, CHANGED["steps"] if name == "steps" else 4)
    assert first.validation is None
    assert (second.validation is None) == (name != "validate_every")
    assert watch.samples == ([4] if name == "sample_every" else [])
    if name != "steps":
        kit.run(tmp_path / "whole", **options)
        ours, theirs = last_state(tmp_path / "run"), last_state(tmp_path / "whole")
        if name != "recompute":
            assert same(ours[0], theirs[0])
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_validation_may_be_switched_on_late(kit, tmp_path, metrics):
    """The first loss is then that of where it was switched on."""
    kit.run(tmp_path / "run", watcher=kit.Watch(stop=3), checkpoint_every=100)
    watch = kit.Watch()
    result = kit.run(tmp_path / "run", watcher=watch, checkpoint_every=100, validate_every=3)
    assert result.validation == (watch.plans[0].validation, watch.points[-1].validation)
    assert None not in result.validation
    assert [line["validation"] is None for line in metrics(tmp_path / "run")] == [True, True, False, True, True, False]


def test_moments_are_computed_as_this_device_wants(kit):
    """A file of a card says fused; a CPU goes on without it, and the other way round."""
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    plain = torch.optim.AdamW([weight], lr=0.1, foreach=False, fused=False)
    plain.step()
    saved = plain.state_dict()
    saved["param_groups"][0] |= {"fused": True, "foreach": True, "lr": 0.25}
    again = torch.optim.AdamW([weight], lr=0.1, foreach=False, fused=False)
    load_moments(again, saved)
    group = again.param_groups[0]
    assert (group["fused"], group["foreach"], group["lr"]) == (False, False, 0.25)
    assert torch.equal(again.state[weight]["exp_avg"], plain.state[weight]["exp_avg"])
    assert saved["param_groups"][0]["fused"] is True


def test_another_model_is_called_by_its_name(kit, tmp_path):
    options, data = TrainOptions(rank=4, steps=1, validate_every=0), kit.make_data(20)
    for model in ("first.safetensors", "second.safetensors"):
        around = Around(facts={"base_model": model})
        if model.startswith("first"):
            train(kit.make_decoder(), "base", data, options, tmp_path / "run", around)
    with pytest.raises(ValueError, match="other settings") as caught:
        train(kit.make_decoder(5), "base", data, options, tmp_path / "run", around)
    assert str(caught.value).splitlines()[1:-1] == [
        "base: another model, or other LoRAs before it (the run has first.safetensors, now second.safetensors)"
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_moments_of_another_optimizer_are_refused_in_words(optimizer):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    ours = make_optimizer(optimizer, [weight], 0.1, 0.0)
    theirs = make_optimizer({"adamw": "prodigy", "prodigy": "adamw"}[optimizer], [weight], 0.1, 0.0)
    theirs.step()
    with pytest.raises(ValueError, match=f"goes on with {type(ours).__name__}.*set optimizer back"):
        load_moments(ours, theirs.state_dict())
    with pytest.raises(ValueError, match=f"the state of Other.*goes on with {type(ours).__name__}"):
        load_moments(ours, {"kind": "Other", **ours.state_dict()})


def test_a_state_without_all_its_parts_is_a_broken_checkpoint(kit, tmp_path):
    """Its hash is right, but it was not written by this."""
    run = tmp_path / "run"
    kit.run(run, watcher=kit.Watch(stop=4))
    folder = run / "checkpoints" / "step_000004"
    state = torch.load(folder / "state.pt", weights_only=True)
    del state["parameters"]
    torch.save(state, folder / "state.pt")
    said = json.loads((folder / "checkpoint.json").read_text())
    content = (folder / "state.pt").read_bytes()
    said["files"]["state.pt"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "checkpoint.json").write_text(json.dumps(said))
    watch = kit.Watch()
    assert kit.run(run, watcher=watch, steps=4).steps == 4
    assert "step_000004 is not whole (state.pt: KeyError: 'parameters')" in watch.words[0]
    assert watch.plans[0].start == 2


@pytest.mark.slow
def test_the_average_goes_on_exactly(kit, tmp_path, metrics):
    kit.run(tmp_path / "run", watcher=kit.Watch(stop=3), checkpoint_every=100)
    kit.run(tmp_path / "run", checkpoint_every=100)
    kit.run(tmp_path / "whole", checkpoint_every=100)
    ours, theirs = ([line["average"] for line in metrics(tmp_path / name)] for name in ("run", "whole"))
    assert ours == theirs


def test_other_settings_are_listed(kit, tmp_path):
    kit.run(tmp_path / "run", steps=2)
    before = sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file())
    with pytest.raises(ValueError, match="another name") as caught:
        kit.run(tmp_path / "run", steps=2, rank=8, seed=3, targets=["mlp"])
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "alpha: the run has 4.0, now 8.0",
        "rank: the run has 4, now 8",
        "seed: the run has 0, now 3",
        "targets: the run has self_attention, cross_attention, now mlp",
    ]
    with pytest.raises(ValueError, match="base: another model, or other LoRAs before it\n"):
        kit.run(tmp_path / "run", decoder=kit.make_decoder(5), steps=2)
    assert sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file()) == before


def test_a_finished_run_gives_its_result_at_once_and_can_grow(kit, tmp_path):
    first = kit.run(tmp_path / "run", steps=4)
    watch = kit.Watch()
    assert kit.run(tmp_path / "run", steps=4, watcher=watch) == first
    assert watch.plans == []
    longer = kit.run(tmp_path / "run", steps=6, watcher=watch)
    assert (watch.plans[0].start, longer.steps) == (4, 6)
    with pytest.raises(ValueError, match="6 steps are done already, but steps is 5"):
        kit.run(tmp_path / "run", steps=5)
