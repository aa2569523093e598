"""Training from one JSON file, without ComfyUI."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from acestep_models.adapters.files import read_adapter
from acestep_models.training.headless import Printer, read_config, run_config

ROOT = Path(__file__).resolve().parents[3]
NAMES = {"model": "m", "text_encoder": "t", "vae": "v", "variant": "turbo"}
GOOD = {"models": NAMES, "dataset": {"path": "songs"}, "name": "tango"}


def write_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**GOOD, **changes}), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def there(tmp_path):
    """What GOOD names."""
    for name in "mtv":
        (tmp_path / name).touch()
    (tmp_path / "songs").mkdir()


def test_paths_count_from_the_file(tmp_path):
    config = read_config(write_config(tmp_path, output="runs", options={"rank": 8, "targets": ["mlp"]}))
    assert config.folder == tmp_path / "runs" / "tango"
    assert (config.options.rank, config.options.targets) == (8, ("mlp",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "the file has no entry model; there are dataset, device, models"),
        ({"models": {"model": "m"}}, "models lacks text_encoder, vae, variant"),
        ({"dataset": "songs"}, "dataset must be a JSON object, got str"),
        ({"dataset": {"path": "songs", "tags": "x"}}, "dataset has no entry tags"),
        ({"options": {"rank": 0}}, "rank must be at least 1"),
        ({"name": "../elsewhere"}, "name must be the name of a folder"),
        ({"precision": "int8"}, "precision must be one of fp32, bf16, fp16, got 'int8'"),
        ({"precision": []}, r"precision must be one of fp32, bf16, fp16, got \[\]"),
        ({"name": "a\0b"}, r"name must be the name of a folder.*got 'a\\x00b'"),
        ({"name": 5}, "name must be the name of a folder.*got 5"),
        ({"name": "x" * 300}, "name must be the name of a folder.*200 bytes"),
        ({"output": 5}, "output must be the path of a folder, got 5"),
        ({"output": "m"}, "output: .*m: is a file, but a folder is needed"),
        ({"device": "tpu"}, "device must be cpu, or cuda .*got 'tpu'"),
        ({"device": 7}, "device must be cpu, or cuda .*got 7"),
        ({"device": "cuda:99"}, "device must be cpu, or cuda .*got 'cuda:99'"),
        ({"options": []}, "options: options must be a JSON object, got list"),
        ({"options": {"targets": [["mlp"]]}}, r"options: targets must be a list of .*got \[\['mlp'\]\]"),
        ({"options": {"targets": [5]}}, r"options: targets must be a list of .*got \[5\]"),
        ({"options": {"kind": ["lora"]}}, r"options: kind must be one of lora, lokr, got \['lora'\]"),
        ({"options": {"steps": 10**400}}, "options: steps must be a whole number"),
        ({"options": {"sample_every": 5}}, "options.sample_every must be 0, got 5"),
        ({"dataset": {"path": 5}}, "dataset.path must be the path of a file or folder, got 5"),
        ({"dataset": {"path": "nope"}}, "dataset.path must be a file or folder that is there, got 'nope'"),
        ({"dataset": {"path": "songs", "tag": 5}}, "dataset.tag must be a text, got 5"),
        ({"dataset": {"path": "songs", "tag_position": "middle"}}, "dataset.tag_position must be one of prepend"),
        ({"dataset": {"path": "songs", "genre_ratio": "x"}}, "dataset.genre_ratio must be a whole number 0 to 100"),
        ({"dataset": {"path": "songs", "hints": "x"}}, "dataset.hints must be true or false, got 'x'"),
        ({"dataset": {"path": "songs", "posterior": "zz"}}, "dataset.posterior must be one of mean, sample"),
        ({"dataset": {"path": "songs", "longest_seconds": "y"}}, "dataset.longest_seconds must be a number 1 to 600"),
        ({"models": {**NAMES, "model": None}}, "models.model must be the path of a file or folder, got None"),
        ({"models": {**NAMES, "model": ""}}, "models.model must be the path of a file or folder, got ''"),
        ({"models": {**NAMES, "vae": "nope.safetensors"}}, "models.vae must be a file or folder that is there"),
        ({"models": {**NAMES, "variant": "huge"}}, "models.variant must be one of .*got 'huge'"),
        ({"models": {**NAMES, "variant": 5}}, "models.variant must be one of .*got 5"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    path = write_config(tmp_path, **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_space_around_a_name_is_not_of_it(tmp_path):
    assert read_config(write_config(tmp_path, name=" g ")).folder == tmp_path / "g"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "dataset: "),  # no song in it
        ({"options": {"validation_songs": 1}}, "options: validation_songs is 1 and the dataset has 1"),
        ({"options": {"rank": 8}, "name": "old"}, "options: .*other settings"),
        ({"options": {"rank": 4}}, "models: "),  # an empty file
    ],
)
def test_nothing_is_written_before_all_is_checked(tmp_path, changes, message):
    if changes:
        write_song(tmp_path / "songs" / "a.wav", 220)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(json.dumps({"settings": {"rank": 4}}))
    (tmp_path / "old" / "stop").touch()
    path = write_config(tmp_path, device="cpu", **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        run_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sorted(tmp_path.rglob("*")) == before


def write_song(path, pitch, seconds=2):
    rate = 48_000
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, rate, 0, "NONE", ""))
        values = (int(12_000 * math.sin(2 * math.pi * pitch * n / rate)) for n in range(rate * seconds))
        file.writeframes(b"".join(struct.pack("<hh", value, value) for value in values))
    path.with_suffix(".txt").write_text("caption: tango, bandoneon\n", encoding="utf-8")


def launch(words, path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words, "-m", "acestep_models.training", str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_from_a_folder_of_songs_to_an_adapter(tmp_path, tiny_2b_split, last_state, two_processes):
    """In one process with accumulation 2, and in two under accelerate: the same adapter."""
    for number in range(2):
        (tmp_path / "songs").mkdir(exist_ok=True)
        write_song(tmp_path / "songs" / f"{number}.wav", 220 * (number + 1))
    models = {name: str(getattr(tiny_2b_split, name)) for name in ("model", "text_encoder", "vae")}
    common = {"models": {**models, "variant": "turbo"}, "dataset": {"path": "songs", "tag": "tango nuevo"}}
    options = {"rank": 4, "steps": 4, "checkpoint_every": 2}
    path = write_config(tmp_path, **common, device="cpu", name="one", options={**options, "accumulation": 2})
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "stop").touch()
    done = launch([], path)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    adapter = read_adapter(tmp_path / "one" / "final" / "one.safetensors")
    assert adapter.facts.trigger == "tango nuevo"
    assert adapter.facts.metadata["base_model"] == Path(models["model"]).name
    again = launch([], path)
    assert "has this run already" in again.stdout
    two = write_config(tmp_path, **common, device="cpu", name="two", options={**options, "accumulation": 1})
    shared = launch(two_processes, two)
    assert shared.returncode == 0, shared.stderr
    ours, theirs = last_state(tmp_path / "one")[0], last_state(tmp_path / "two")[0]
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    changed = write_config(
        tmp_path, **common, device="cpu", name="one", options={**options, "rank": 8, "accumulation": 2}
    )
    refused = launch([], changed)
    assert refused.returncode == 1
    assert "rank: the run has 4, now 8" in refused.stderr


def test_a_stop_of_an_earlier_run_does_not_end_the_next(tmp_path, capsys):
    stop = tmp_path / "stop"
    stop.touch()
    others = Printer(stop, talks=False)
    others.begin()
    assert stop.exists()  # the first process takes it away
    printer = Printer(stop)
    printer.begin()
    assert not stop.exists() and not printer.should_stop()
    assert "left by an earlier run" in capsys.readouterr().out
    stop.touch()
    assert printer.should_stop()
