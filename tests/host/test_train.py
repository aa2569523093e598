"""Training in a real ComfyUI: songs of a folder become a LoRA that the same prompt plays with."""

from __future__ import annotations

import json
import shutil

import prompts as p
import pytest
import torch
from hostlib import ROOT
from safetensors.torch import load_file
from sounds import write_songs

BUILD, LABEL, TRAIN, APPLY, OPTIONS = "70", "71", "72", "73", "74"
TWIN = ROOT / "workflows" / "api" / "train_lora.json"
STOP = "/acestep/training/stop"
USUAL = {
    "preset": "12 GB",
    "kind": "lora",
    "rank": 4,
    "steps": 3,
    "learning_rate": 0.001,
    "seed": 1,
    "if_there": "resume",
}
SETTINGS = {
    "targets": "attention",
    "alpha": -1.0,
    "dropout": 0.0,
    "factor": -1,
    "batch": 1,
    "accumulation": 2,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip": 1.0,
    "ema": 0.0,
    "times": "auto",
    "shift": -1.0,
    "mu": -0.4,
    "sigma": 1.0,
    "condition_dropout": -1.0,
    "hint_share": 0.0,
    "weighting": "none",
    "crop_seconds": 0.0,
    "duration": "song",
    "recompute": "auto",
    "warmup": -1,
    "checkpoint_every": 100,
    "keep": 2,
    "validate_every": 0,
    "validation_points": 8,
    "validation_songs": 0,
    "sample_every": 0,
}


def build(folder="my_songs"):
    said = {"name": "", "tag": "zorp", "tag_position": "auto", "genre_ratio": -1, "instrumental": "auto"}
    return p.node("ACEStepBuildDataset", folder=folder, **said)


def training(name, folder="my_songs", **changes):
    """Load, build, train, with changes of either node."""
    wires = {"model": [p.LOAD, 0], "conditioner": [p.LOAD, 1], "vae": [p.LOAD, 2], "dataset": [BUILD, 0]}
    widgets = {**USUAL, **{key: value for key, value in changes.items() if key not in SETTINGS}}
    settings = {**SETTINGS, **{key: value for key, value in changes.items() if key in SETTINGS}}
    inputs = {**wires, "name": name, **widgets, "options": [OPTIONS, 0]}
    return {
        p.LOAD: p.load(precision="fp32"),
        BUILD: build(folder),
        OPTIONS: p.node("ACEStepTrainingOptions", **settings),
        TRAIN: {"class_type": "ACEStepTrainLoRA", "inputs": inputs},
    }


@pytest.fixture(scope="module")
def runs(host):
    """The folder of all runs."""
    return host.base / "output" / "acestep_lora"


@pytest.fixture(scope="module")
def first(host, runs):
    """A run of three steps that others take the encoded songs from."""
    run = host.run(training("first"))
    assert run.ok, run.message
    return run


@pytest.fixture
def encoded(first, runs):
    """encoded(name) puts the encoded songs of the first run into another one: encoding takes long."""

    def put(name):
        shutil.copytree(runs / "first" / "prepared", runs / name / "prepared")
        return name

    return put


@pytest.fixture
def learned(host):
    """learned(run) -> the tensors of the file that a run says it has saved."""

    def read(run):
        (line,) = [line for line in run.text(TRAIN).splitlines() if line.startswith("saved: loras/")]
        return load_file(host.base / "models" / "loras" / line.removeprefix("saved: loras/"))

    return read


def contents(folder):
    """Every file below a folder, with its bytes and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def at_step(number, act):
    """Does something once the trainer tells of that step."""
    done = []

    def watch(host, event):
        told = event["data"] if event["type"] == "progress" else {}
        if not done and told.get("node") == TRAIN and told["max"] > 100 and told["value"] >= number:
            done.append(act(host))

    watch.done = done
    return watch


def test_the_shipped_workflow_trains_and_plays_in_one_prompt(host, learned):
    prompt = json.loads(TWIN.read_text())
    ids = {node["class_type"]: number for number, node in prompt.items()}
    train, apply = ids["ACEStepTrainLoRA"], ids["ACEStepApplyLoRA"]
    assert prompt[apply]["inputs"]["lora"] == [train, 0]
    assert {"ACEStepBuildDataset", "ACEStepLabelDataset", "ACEStepDiTSample", "SaveAudio"} <= ids.keys()
    prompt[train]["inputs"] |= {"name": "shipped", "steps": 8}
    sampler = ids["ACEStepDiTSample"]
    keep = [key for key in prompt if prompt[key]["class_type"] not in ("ACEStepDecodeAudio", "ACEStepLoudness")]
    short = {key: prompt[key] for key in keep if prompt[key]["class_type"] != "SaveAudio"}
    short["90"] = p.node("SaveLatent", samples=[sampler, 0], filename_prefix="latents/trained")
    run = host.run(short, timeout=300)
    assert run.ok, run.message
    order = [e["data"].get("node") for e in run.events if e["type"] == "executing"]
    assert order.index(train) < order.index(apply) < order.index(sampler)
    pictures = [e["body"] for e in run.events if e["type"] == "binary" and b"\xff\xd8\xff" in e["body"][:400]]
    assert pictures and any(e["type"] == "progress" and e["data"]["node"] == train for e in run.events)
    text = run.text(train)
    assert "preset 12 GB: rank 64, batch 1, " in text and "self attention and cross attention" in text
    assert "adamw, learning rate 0.0001" in text
    assert "8 steps" in text and "saved: loras/shipped_00001_.safetensors" in text and "memory: about" in text
    (picture,) = run.outputs[train]["images"]
    file = host.base / picture["type"] / picture["subfolder"] / picture["filename"]
    assert file.read_bytes()[:4] == b"\x89PNG" and host.fetch(
        f"/view?filename={picture['filename']}&subfolder={picture['subfolder']}&type=output"
    )
    assert "matched: " in run.text(apply) and "0 of " not in run.text(apply)


def test_what_was_learned_is_heard_and_the_model_is_as_it_was(host, first, relative_error):
    def latents(prompt):
        run = host.run(p.latent_only(prompt, "heard"))
        assert run.ok, run.message
        file = run.outputs[p.SAVE]["latents"][0]
        return load_file(host.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"]

    plain = latents(p.song(seed=5, loader={"precision": "fp32"}))
    strength = {"self_attention": 1.0, "cross_attention": 1.0, "mlp": 1.0, "other": 1.0, "layers": "", "alpha": -1.0}
    apply = p.node("ACEStepApplyLoRA", model=[p.LOAD, 0], lora=[TRAIN, 0], strength=2.0, **strength)
    played = {**p.song(seed=5, loader={"precision": "fp32"}), **training("first"), APPLY: apply}
    played[p.SAMPLE]["inputs"]["model"] = [APPLY, 0]
    changed = latents(played)
    assert relative_error(changed, plain) > 1e-3
    assert torch.equal(latents(p.song(seed=5, loader={"precision": "fp32"})), plain)


def test_cancelled_and_run_again_is_as_if_it_had_never_stopped(host, encoded, learned, runs):
    cancel = at_step(4, lambda host: host.post("/interrupt", {})[0])
    run = host.run(training(encoded("cancelled"), steps=150), on_event=cancel)
    assert not run.ok and run.events[-1]["type"] == "execution_interrupted" and cancel.done == [200]
    assert list((runs / "cancelled" / "checkpoints").glob("step_*")) and not (runs / "cancelled" / "final").exists()
    again = host.run(training("cancelled", steps=150))
    assert again.ok, again.message
    assert "The run goes on from step" in again.text(TRAIN)
    straight = host.run(training(encoded("straight"), steps=150))
    assert straight.ok, straight.message
    ours, theirs = learned(again), learned(straight)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_stop_and_keep(host, encoded, learned):
    stop = at_step(3, lambda host: host.post(STOP, {"node": TRAIN}))
    run = host.run(training(encoded("stopped"), steps=5000), on_event=stop)
    assert run.ok, run.message
    assert stop.done == [(200, {"stopping": [TRAIN]})]
    assert "stopped after " in run.text(TRAIN) and "of 5000 steps; what was learned is kept" in run.text(TRAIN)
    assert any(value.abs().sum() > 0 for key, value in learned(run).items() if "lora_B" in key or "lora_up" in key)
    assert host.post(STOP, {}) == (404, {"error": "nothing is being trained"})


def test_stop_while_songs_are_encoded(host, runs, good_song):
    """Nothing is learned by then; what is encoded is not encoded again."""
    asked = []

    def stop(host, event):
        if not asked and event["type"] == "binary" and b"preparing song 1" in event["body"]:
            asked.append(host.post(STOP, {"node": TRAIN}))

    run = host.run(training("early", steps=5000), on_event=stop)
    assert asked == [(200, {"stopping": [TRAIN]})]
    assert not run.ok and "stopped before anything was learned" in run.message
    assert not list((runs / "early").glob("checkpoints/*")) and not (runs / "early" / "run.json").exists()
    assert host.post(STOP, {}) == (404, {"error": "nothing is being trained"})
    good_song()


def test_a_sample_that_cannot_be_written_ends_no_run(host, encoded, runs):
    samples = runs / encoded("no_samples") / "samples"
    samples.write_bytes(b"a file where a folder should be")
    run = host.run(training("no_samples", sample_every=1))
    assert run.ok, run.message
    said = run.text(TRAIN)
    assert said.count("no sample at step ") == 1 and "no sample at step 1: " in said and "3 steps, " in said
    assert samples.read_bytes() == b"a file where a folder should be"


def test_a_deleted_run_is_trained_again(host, encoded, runs):
    assert host.run(training(encoded("deleted"), steps=1)).ok
    assert TRAIN in host.run(training("deleted", steps=1)).cached
    shutil.rmtree(runs / "deleted")
    encoded("deleted")
    run = host.run(training("deleted", steps=1))
    assert run.ok and TRAIN not in run.cached, run.message
    assert "1 step, " in run.text(TRAIN) and (runs / "deleted" / "final" / "deleted.safetensors").is_file()


def test_a_result_is_used_without_any_training(host, first):
    run = host.run(training("first", if_there="use", rank=77, steps=99))
    assert run.ok, run.message
    said = run.text(TRAIN)
    assert "finished after 3 steps; nothing was trained" in said and "saved: loras/first_00001_.safetensors" in said
    assert not any("preparing song" in json.dumps(event["data"]) for event in run.events if "data" in event)
    assert run.outputs[TRAIN]["images"]


def test_what_differs_from_the_usual_is_said(first):
    assert first.text(OPTIONS) == "not as usual: accumulation 2, hint_share 0.0, validate_every 0"
    assert "preset 12 GB: nothing; all else as Training Options says" in first.text(TRAIN)


def test_a_deleted_result_is_put_back(host, first):
    file = host.base / "models" / "loras" / "first_00001_.safetensors"
    before = file.read_bytes()
    assert host.run(training("first")).ok  # the host forgets what the prompt before did not have
    assert TRAIN in host.run(training("first")).cached
    file.unlink()
    run = host.run(training("first"))
    assert run.ok, run.message
    assert file.read_bytes() == before and "nothing was trained" in run.text(TRAIN)


def test_a_changed_text_is_seen(host, encoded):
    songs = write_songs(host.base / "input" / "changing")
    assert host.run(training(encoded("changing"), folder="changing")).ok
    (songs / "boats.txt").write_text("fast techno", encoding="utf-8")
    run = host.run(training("changing", folder="changing"))
    assert not run.ok and "choose another name" in run.message.lower()


def test_what_cannot_be_is_refused_before_anything_runs(host, good_song):
    for changes, message in (
        ({"name": "../out"}, "name: expected a plain name"),
        ({"preset": "6 GB"}, "preset"),
        ({"targets": "everything"}, "targets"),
        ({"kind": "dora"}, "kind"),
        ({"steps": -1}, "steps"),
    ):
        run = host.run(training(**{"name": "never", **changes}))
        assert run.status == 400 and message in json.dumps(run.entry), run.entry
    good_song()


def test_bad_input_is_told_and_leaves_nothing(host, first, runs, good_song):
    (host.base / "input" / "empty").mkdir(exist_ok=True)
    before = contents(runs / "first")
    for prompt, message in (
        (training("bad", folder="empty"), "empty"),
        (training("bad", folder="not_there"), "not_there"),
        (training("bad", alpha=0.0), "alpha must be above 0"),
        (training("bad", warmup=3), "warmup must be shorter than the 3 steps"),
        (training("bad", if_there="use"), "bad has no result of a run that ended"),
        (training("first", rank=8), "rank: the run has 4, now 8"),
    ):
        run = host.run(prompt)
        assert not run.ok and message in (run.message or json.dumps(run.entry)), run.message
    assert not (runs / "bad").exists()
    assert contents(runs / "first") == before
    good_song()


def test_an_unreadable_song_is_named_and_the_others_are_learned(host, first):
    songs = write_songs(host.base / "input" / "one_bad")
    (songs / "river.wav").write_bytes(b"this is no sound")
    run = host.run(training("one_bad", folder="one_bad", steps=1))
    assert run.ok, run.message
    assert "river.wav" in run.text(BUILD) and "river.wav" in run.text(TRAIN)
