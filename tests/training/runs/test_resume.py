"""A run that goes on is the run that was never interrupted, bit by bit (spec/lora.md §6 tests 13 and 14)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    """SIGKILL whenever: at start, in a step, in the middle of a checkpoint. What is left always goes on."""
    options = {**EXACT, "steps": 240, "checkpoint_every": 1, "validate_every": 0}
    run, chance = tmp_path / "killed", random.Random(8)
    kills = reached = 0
    while kills < 20:
        process = fresh(run, **options)
        before, deadline = reached, time.monotonic() + 60
        while reached == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            reached = newest_step(run)
        time.sleep(chance.uniform(0, 0.4))
        assert process.poll() is None, "the run must still be going on"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert newest_step(run) >= reached > before
        reached = newest_step(run)
    assert fresh(run, **options).wait(300) == 0
    assert fresh(tmp_path / "whole", **options).wait(300) == 0
    assert same(last_state(run), last_state(tmp_path / "whole"))
    assert metrics(run) == metrics(tmp_path / "whole")
    assert not list(run.rglob("*.tmp"))


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
    left = tmp_path / "broken" / "checkpoints" / ".step_000006.0123.tmp"
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
    assert sorted(losses) == [2, 4, 6, 7]
    best = min(losses, key=losses.get)
    assert left == [f"step_{step:06d}" for step in sorted({best, 6, 7})]


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
    with pytest.raises(ValueError, match="base: the run has"):
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
