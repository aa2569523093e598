"""Whose a run folder is: one process writes there at a time, and only over its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from acestep_models.adapters.files import read_adapter
from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError
from acestep_models.training.around import Around
from acestep_models.training.checkpoint import Counters
from acestep_models.training.data.clip import Clip, Dataset
from acestep_models.training.files import remove_drafts, remove_folder
from acestep_models.training.job import TrainOptions, _Job, train
from acestep_models.training.parallel import Workers
from acestep_models.training.record import compare_options
from acestep_models.training.run_folder import agree
from acestep_models.training.wish import check_wish

ROOT = Path(__file__).resolve().parents[3]
KIT = Path(__file__).with_name("kit.py")
HOLD = """
import sys
from pathlib import Path
from acestep_models.training.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_into_one_folder(kit, tmp_path):
    """The second is refused while the first lives; when that is killed its lock is gone."""
    run = tmp_path / "run"
    kit.run(run, watcher=kit.Watch(stop=2))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(
                ValueError, match="another run is writing there just now.*choose another name"
            ) as caught:
                kit.run(run)
            assert str(caught.value).startswith(str(run))
            assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        finally:
            other.kill()
    assert kit.run(run).steps == 6


@pytest.mark.parametrize("there", ["final/song.wav", "checkpoints/mine.safetensors"])
def test_a_strangers_folder_is_left_alone(kit, tmp_path, there):
    path = tmp_path / "run" / there
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(ValueError, match=f"it has {path.parent.name} but no run.json.*Choose another name"):
        kit.run(tmp_path / "run")
    assert path.read_text() == "precious"


def test_a_run_whose_run_json_was_deleted_is_not_taken_for_a_new_one(kit, tmp_path):
    kit.run(tmp_path / "run", steps=2)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ValueError, match="its run.json was deleted"):
        kit.run(tmp_path / "run", steps=2, rank=8)


class Second(Workers):
    """The second of two processes that find the same, where the first is not here."""

    def each(self, value, device):
        return [value, value]

    def barrier(self):
        pass


def trained_by(kit, workers, folder, steps=6):
    options = TrainOptions(rank=4, steps=steps, accumulation=2, checkpoint_every=2, validate_every=0)
    return train(kit.make_decoder(), "base", kit.make_data(20, 30, 20, 40), options, folder, Around(workers=workers))


def test_only_the_first_process_sweeps(kit, tmp_path):
    """What the first one has just begun to write is not taken from it."""
    run = tmp_path / "run"
    trained_by(kit, Workers.single(), run, steps=2)
    draft = run / f".run.json.{32 * 'a'}.tmp"
    draft.write_text("half")
    assert trained_by(kit, Second(rank=1), run, steps=3).steps == 2  # what the first one left
    assert draft.exists()
    trained_by(kit, Workers.single(), run, steps=3)
    assert not draft.exists()


class Apart(Workers):
    """Two processes with a folder each: the other one has no checkpoint."""

    def each(self, value, device):
        return [value, 0]


def test_machines_without_one_folder_are_told(kit, tmp_path):
    run = tmp_path / "run"
    kit.run(run, watcher=kit.Watch(stop=2))
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=r"do not find the same there \(2, 0\).*share one output folder"):
        trained_by(kit, Apart(), run)
    assert sorted(run.rglob("*")) == before


class Summed(Workers):
    """Rank 1 of 3; the others say 5 and 7."""

    def sum(self, tensor):
        assert tensor.tolist() == [0, 6, 0]
        return tensor + torch.tensor([5, 0, 7])


def test_every_process_hears_what_all_found(tmp_path):
    with pytest.raises(ValueError, match=r"\(5, 6, 7\)"):
        agree(Around(workers=Summed(1, 3)), tmp_path, 6)


@pytest.mark.slow
def test_two_processes_with_a_folder_each(tmp_path, two_processes):
    """The first has a checkpoint, the second none: an error in words, and none waits for the other."""
    script, options = tmp_path / "apart.py", {"steps": 4, "accumulation": 1}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script.write_text(
        "import os, runpy, sys\n"
        f"sys.argv = [{str(KIT)!r}, os.path.join({str(tmp_path)!r}, os.environ['RANK']), {json.dumps(options)!r}]\n"
        f"runpy.run_path({str(KIT)!r}, run_name='__main__')\n"
    )
    shared = subprocess.run(
        [sys.executable, *two_processes, str(KIT), str(tmp_path / "0"), json.dumps({**options, "stop": 2})],
        env=environment,
        timeout=120,
    )
    assert shared.returncode == 0
    done = subprocess.run(
        [sys.executable, *two_processes, str(script)], env=environment, timeout=120, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "all machines must share one output folder" in done.stderr


def test_processes_wait_for_the_first_ones_songs(monkeypatch):
    """Encoding a large dataset takes hours; the usual patience is ten minutes."""
    asked = {}

    def state(**words):
        asked.update(words)
        return SimpleNamespace(process_index=0, num_processes=1)

    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=state))
    Workers.accelerated(cpu=True)
    assert asked["cpu"] and asked["timeout"].total_seconds() >= 24 * 3600


@pytest.mark.slow
def test_room_that_the_run_has_already_is_no_reason_to_refuse_it(kit, tmp_path, monkeypatch):
    run = tmp_path / "run"
    options = {"steps": 8, "checkpoint_every": 1}
    kit.run(run, watcher=kit.Watch(stop=6), **options)
    held = sum(path.stat().st_size for path in (run / "checkpoints").rglob("*") if path.is_file())
    trained = json.loads((run / "checkpoints" / "step_000006" / "checkpoint.json").read_text())["files"]
    numbers = trained["adapter_model.safetensors"]["size"] // 4
    needed = numbers * (12 * 4 + 8)  # two checkpoints, the best, one more; adapter and file
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed - held // 2))
    with pytest.raises(ACEStepError, match="Make room"):
        kit.run(tmp_path / "other", **options)
    assert kit.run(run, **options).steps == 8


def test_a_result_that_was_damaged_is_written_again(kit, tmp_path):
    run = tmp_path / "run"
    first = kit.run(run, steps=2)
    whole = first.file.read_bytes()
    other = bytearray(whole)
    other[-1] ^= 1
    for damaged in (b"x", bytes(other), None):
        first.file.unlink() if damaged is None else first.file.write_bytes(damaged)
        watch = kit.Watch()
        assert kit.run(run, steps=2, watcher=watch) == first
        assert first.file.read_bytes() == whole and watch.points == []
        assert "is not as it was written" in watch.words[0] and "last checkpoint" in watch.words[0]
    weights = first.folder / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(b"x")
    kit.run(run, steps=2)
    assert weights.read_bytes() == before


def test_equal_runs_give_equal_files(kit, tmp_path):
    results = [kit.run(tmp_path / name / "run", steps=2) for name in "abc"]
    for name in (results[0].file.name, "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert len({(result.file.parent / name).read_bytes() for result in results}) == 1
    assert read_adapter(results[0].file).facts.metadata["steps"] == "2"


def test_what_a_user_put_beside_a_result_stays(kit, tmp_path):
    run = tmp_path / "run"
    kit.run(run, steps=2)
    mine = {"final/README.md": "mine", "final/demo/a.wav": "sound", "final/adapter/card.md": "card"}
    mine |= {".note.tmp": "note", "checkpoints/.draft.tmp": "draft"}
    for name, text in mine.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(text)
    result = kit.run(run, steps=4)
    assert {name: (run / name).read_text() for name in mine} == mine
    assert read_adapter(result.file).facts.metadata["steps"] == "4"
    kit.run(run, steps=4)
    assert {name: (run / name).read_text() for name in mine} == mine


def test_a_kill_between_two_names_of_a_folder_loses_nothing(tmp_path):
    """The old one was put aside, the new one is not in its place yet."""
    aside, draft = (tmp_path / f".final.{32 * sign}.{kind}" for sign, kind in (("a", "old"), ("b", "tmp")))
    for folder in (aside, draft):
        folder.mkdir()
        (folder / "README.md").write_text(folder.suffix)
    remove_drafts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final" / "README.md").read_text() == ".old"


def test_a_kill_while_a_folder_is_taken_away_leaves_nothing_half_there(tmp_path, monkeypatch):
    """Its name is gone first; what is left under another one is swept."""
    old, kept = tmp_path / "step_000001", tmp_path / "step_000002"
    for folder in (old, kept):
        folder.mkdir()
        (folder / "state.pt").write_text("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", Mock(side_effect=KeyboardInterrupt))
        remove_folder(old)
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_000002"]
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [kept] and (kept / "state.pt").read_text() == "whole"


@pytest.mark.parametrize("name", ["", "checkpoints", "final", "prepared"])
def test_a_file_where_a_folder_must_be_is_said_at_once(kit, tmp_path, name):
    run = tmp_path / "run"
    if name:
        run.mkdir()
    (run / name).write_text("mine")
    match = "is a file, but a folder is needed there.*choose another name"
    with pytest.raises(ValueError, match=match):
        kit.run(run)
    with pytest.raises(ValueError, match=match):
        compare_options(run, TrainOptions(), "base")
    assert (run / name).read_text() == "mine"


def test_what_can_be_refused_before_songs_are_encoded(monkeypatch):
    blueprint = Blueprint(caption="tango")
    songs = Dataset("two", tuple(Clip(name, blueprint, path=Path(name)) for name in ("a.wav", "b.wav")))
    cpu = torch.device("cpu")
    check_wish(TrainOptions(validation_songs=1), songs, cpu)
    with pytest.raises(ValueError, match="validation_songs is 2 and the dataset has 2.*1 or less"):
        check_wish(TrainOptions(validation_songs=2), songs, cpu)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        check_wish(TrainOptions(optimizer="adamw8bit"), songs, cpu)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    with pytest.raises(ValueError, match="CUDA card only"):
        check_wish(TrainOptions(optimizer="adamw8bit"), songs, cpu)


def test_the_songs_that_differ_are_named(kit, tmp_path):
    data = kit.make_data(20, 30, 20, 40)
    kit.run(tmp_path / "run", data=data, steps=1)
    first, second, third, fourth = data.examples
    louder = replace(first, latents=2 * first.latents)
    changed = replace(data, examples=(louder, second, third, replace(fourth, name="new.wav")), fingerprint="other")
    with pytest.raises(ValueError, match="another name") as caught:
        kit.run(tmp_path / "run", data=changed, steps=1)
    (line,) = str(caught.value).splitlines()[1:-1]
    assert line == "dataset: its songs differ (changed: song0.wav; new: new.wav; gone: song3.wav)"


@pytest.mark.slow
def test_a_rate_at_which_prodigy_learns_nothing_is_said(kit, tmp_path):
    slow = kit.run(tmp_path / "slow", steps=1, optimizer="prodigy", learning_rate=1e-4)
    assert any("learning_rate is 0.0001, but prodigy" in note for note in slow.notes)
    watch = kit.Watch()
    usual = kit.run(tmp_path / "usual", steps=1, optimizer="prodigy", watcher=watch)
    assert not any("prodigy" in note for note in usual.notes)
    assert watch.points[0].learning_rate == 1.0
    assert json.loads((tmp_path / "usual" / "run.json").read_text())["settings"]["learning_rate"] == 1.0
    kit.run(tmp_path / "usual", steps=2, optimizer="prodigy", learning_rate=1.0)  # the same, said


@pytest.mark.slow
def test_validation_may_begin_in_the_middle_of_a_run(kit, tmp_path):
    kit.run(tmp_path / "run", watcher=kit.Watch(stop=2))
    assert kit.run(tmp_path / "run", validate_every=2, steps=4).steps == 4


def test_facts_of_a_run_that_was_not_validated_from_its_start(kit, tmp_path):
    data, record = kit.make_data(20), SimpleNamespace(settings={"variant": "base"})
    job = _Job(None, SimpleNamespace(data=data), record, tmp_path / "run", Around())
    assert "validation" not in job._facts(Counters(step=2, last=1.0, measured=2)).metadata
    assert job._facts(Counters(first=2.0, last=1.0)).metadata["validation"] == "2 -> 1"
