"""Training in ComfyUI's process: the widgets, and runs that leave the model as it was and nothing behind.

tests/host/test_train.py runs the node in ComfyUI.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn


def digest(tensors):
    """One hash for many tensors by name."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode() + tensors[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


@pytest.fixture
def songs(core):
    """songs(frames=..) -> prepared songs of random numbers, wide as the tiny conditioner's."""

    def make(wide, lengths=(40, 60)):
        random = torch.Generator().manual_seed(5)
        module = core("training.examples")
        examples = tuple(
            module.Example(f"{n}.wav", torch.randn(n, 64, generator=random), torch.randn(9, wide, generator=random))
            for n in lengths
        )
        silence, null = torch.zeros(max(lengths), 64), torch.zeros(1, wide)
        return module.Prepared(examples, null, silence, f"songs of {lengths}", {"trigger": "zorp"}, ())

    return make


SETTINGS = {
    "targets": "attention",
    "alpha": -1,
    "dropout": 0.0,
    "factor": -1,
    "batch": 1,
    "accumulation": 2,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip": 1.0,
    "ema": 0.0,
    "times": "auto",
    "shift": -1,
    "mu": -0.4,
    "sigma": 1.0,
    "condition_dropout": -1,
    "hint_share": 0.0,
    "weighting": "none",
    "crop_seconds": 0.0,
    "duration": "song",
    "recompute": "auto",
    "warmup": -1,
    "checkpoint_every": 2,
    "keep": 2,
    "validate_every": 2,
    "validation_points": 8,
    "validation_songs": 0,
    "sample_every": 0,
}


@pytest.fixture
def settings(pack):
    """settings(**changes) -> what TrainingOptions gives, and what it says."""

    def make(**changes):
        output = pack("").TrainingOptions.execute(**{**SETTINGS, **changes})
        return output.result[0], output.ui["text"][0]

    return make


@pytest.fixture
def options(pack, settings):
    """options(**changes) -> the options of a run, of which some are TrainLoRA's and the others TrainingOptions'."""

    def make(**changes):
        own = {"preset": "12 GB", "kind": "lora", "rank": 4, "steps": 3, "learning_rate": 1e-3, "seed": 1}
        own |= {name: changes.pop(name) for name in tuple(changes) if name in own}
        return pack("train_inputs").options_of(**own, options=settings(**changes)[0])

    return make


def test_the_defaults_of_training_options_are_the_trainers(pack, core):
    node, usual = pack("").TrainingOptions, core("training.options").TrainOptions()
    plain = {socket.id: socket.default for socket in node.define_schema().inputs}
    made = node.execute(**plain)
    own = {"kind", "rank", "steps", "learning_rate", "seed"}
    assert own | set(plain) == set(usual.to_json()) and not own & set(plain)
    names = {"steps": usual.steps}
    assert dataclasses.replace(made.result[0], **names) == usual and made.ui["text"][0] == "all as usual"


def test_training_options_are_what_they_say(settings):
    made, said = settings(alpha=8.0, targets="attention and mlp", shift=2.0, condition_dropout=0.0, warmup=5000)
    assert (made.alpha, made.shift, made.condition_dropout, made.warmup) == (8.0, 2.0, 0.0, 5000)
    assert made.targets == ("self_attention", "cross_attention", "mlp")
    assert said == (
        "not as usual: alpha 8.0, targets self attention and cross attention and mlp, accumulation 2, warmup 5000, "
        "shift 2.0, condition_dropout 0.0, hint_share 0.0, checkpoint_every 2, validate_every 2"
    )


NOTHING_ASKED = {"kind": "lora", "rank": 0, "steps": 0, "learning_rate": 0.0, "seed": 0}


def test_a_preset_counts_where_nothing_is_connected(pack, core):
    inputs, presets = pack("train_inputs"), core("training.presets").PRESETS
    for name, row in presets.items():
        made = inputs.options_of(name, **NOTHING_ASKED, options=None)
        assert {key: getattr(made, key) for key in row} == dict(row)
        assert made.rate == 1e-4
        asked = NOTHING_ASKED | {"kind": "lokr", "rank": 3, "steps": 7, "learning_rate": 0.5, "seed": 9}
        other = inputs.options_of(name, **asked, options=None)
        assert (other.kind, other.rank, other.steps, other.learning_rate, other.seed) == ("lokr", 3, 7, 0.5, 9)
        assert {key: getattr(other, key) for key in row if key not in asked} == {
            key: value for key, value in row.items() if key not in asked
        }


def test_connected_options_count_before_the_preset(pack, settings):
    inputs = pack("train_inputs")
    given = settings(targets="mlp", optimizer="prodigy", recompute="off")[0]
    made = inputs.options_of("24 GB", **NOTHING_ASKED, options=given)
    assert (made.targets, made.recompute, made.optimizer) == (("mlp",), "off", "prodigy")
    assert (made.rank, made.steps) == (64, 1000) and made.rate == 1.0  # Prodigy's usual one
    said = NOTHING_ASKED | {"rank": 8, "steps": 20, "learning_rate": 0.5}
    made = inputs.options_of("24 GB", **said, options=given)
    assert (made.rank, made.steps, made.learning_rate) == (8, 20, 0.5)


def test_the_report_says_what_a_preset_set(pack):
    line = pack("train_inputs").preset_line
    assert line("8 GB", 0, 0, False) == "preset 8 GB: rank 32, steps 600, batch 1, recompute on"
    assert line("8 GB", 4, 9, False) == "preset 8 GB: batch 1, recompute on"
    assert line("8 GB", 0, 9, True) == "preset 8 GB: rank 32; all else as Training Options says"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "6 GB"}, "preset: expected one of 8 GB, 12 GB"),
        ({"targets": "everything"}, "targets: expected one of attention"),
        ({"kind": "dora"}, "kind: expected one of lora, lokr"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a number"),
        ({"warmup": 3}, "warmup must be shorter than the 3 steps"),
    ],
)
def test_widgets_that_cannot_be(options, changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


@pytest.fixture
def node(pack, monkeypatch, loaded):
    """node(model, **changes): TrainLoRA as ComfyUI runs it, but that encoding songs is a failure of the test."""

    def no_song(*_):
        raise AssertionError("songs were encoded")

    monkeypatch.setattr(pack("train"), "prepare", no_song)

    def run(model, **changes):
        said = {"name": "style", "preset": "12 GB", "kind": "lora", "rank": 4, "steps": 3, "learning_rate": 1e-3}
        given = {**said, "seed": 1, "if_there": "resume", **changes}
        return pack("").TrainLoRA.execute(model, loaded.conditioner, loaded.vae, None, **given)

    return run


def test_a_refused_run_encodes_no_song(train, model, node, settings):
    train(model)
    with pytest.raises(ValueError, match="rank: the run has 4, now 8") as refused:
        node(model, rank=8, learning_rate=0.0, options=settings()[0])
    assert "learning_rate: the run has 0.001, now 0.0001" in str(refused.value)
    assert not any(word in str(refused.value) for word in ("dataset", "base:", "precision"))


def test_use_gives_what_a_run_came_to(train, model, node, output, pack):
    with pytest.raises(ValueError, match=r"use, but \S*acestep_lora.style has no result"):
        node(model, if_there="use")
    outcome, folder = train(model)
    outcome.watcher.save_picture(folder)
    made = node(None, if_there="use", rank=77)
    name, where, said = made.result
    assert (output / "loras" / name).read_bytes() == outcome.result.file.read_bytes()
    assert where == str(folder / "final" / "adapter") and "finished after 3 steps; nothing was trained" in said
    assert made.ui["images"] == [{"filename": "loss.png", "subfolder": "acestep_lora/style", "type": "output"}]
    mark = pack("").TrainLoRA.fingerprint_inputs
    before = mark(name="style", if_there="use"), mark(name="style", if_there="resume")
    os.utime(outcome.result.file, ns=(1, 1))
    assert mark(name="style", if_there="use") != before[0] and mark(name="style", if_there="resume") == before[1]


@pytest.fixture
def train(pack, options, output, songs, loaded):
    """train(model, **widgets) -> (outcome, folder) of a run inside inference mode, as ComfyUI runs nodes."""
    module = pack("host.training_run")

    def go(model, name="style", lengths=(40, 60), **changes):
        folder = pack("host.training").run_folder(name, False)
        wide = model.model.diffusion_model.decoder.config.encoder_hidden_size
        with torch.inference_mode(), pack("host.stop_training").TRAININGS.running() as stop:
            run = module.Run(model, songs(wide, lengths), options(**changes), folder, loaded.vae)
            return module.train_here(run, pack("host.runtime").HostRuntime(), stop), folder

    return go


def test_16_the_input_model_is_as_it_was_after_training(pack, model, train, velocity_of):
    """spec/lora.md §6, test 16."""
    decoder = model.model.diffusion_model.decoder
    assert all(p.is_inference() for p in decoder.parameters())

    def state():
        with torch.inference_mode():
            plays = velocity_of(decoder).clone()
            return digest({k: v.clone() for k, v in decoder.state_dict().items()}), digest({"out": plays})

    before = state(), list(decoder.state_dict()), [type(m) for m in decoder.modules()]
    outcome, folder = train(model)
    assert (state(), list(decoder.state_dict()), [type(m) for m in decoder.modules()]) == before
    assert outcome.result.steps == 3 and outcome.result.file.is_file()
    adapter = pack("host.loras").read_adapter(outcome.result.file)
    ups = [delta.up for delta in adapter.deltas.values()]
    assert len(ups) == 8 * len(decoder.layers) and all(up.abs().sum() > 0 for up in ups)
    assert adapter.facts.trigger == "zorp" and adapter.facts.base_variant == "turbo"


def test_24_three_runs_leave_nothing_behind(model, train):
    """spec/lora.md §6, test 24."""
    import gc

    def count():
        gc.collect()
        kinds = [type(one) for one in gc.get_objects()]
        tensors = sum(issubclass(kind, torch.Tensor) for kind in kinds)
        return tensors, sum(issubclass(kind, nn.Module) for kind in kinds), len(model.patches)

    sizes = []
    for number in range(3):
        outcome, _ = train(model, f"run{number}")
        assert outcome.result.steps == 3
        del outcome
        sizes.append(count())
    assert sizes[1:] == sizes[:-1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


@pytest.fixture
def in_place(pack, monkeypatch):
    """Taking the host's models off the device is a failure of the test from here on."""

    def use():
        def no_seat(*_):
            raise AssertionError("the host's models were taken off the device")

        monkeypatch.setattr(pack("host.training_run"), "seat", no_seat)

    return use


def test_a_finished_run_gives_its_result_at_once(train, model, in_place):
    first, folder = train(model)
    content = first.result.file.read_bytes()
    in_place()
    second, _ = train(model)
    assert second.result == first.result and second.result.file.read_bytes() == content
    assert second.watcher.points == [] and second.lines == ()


def test_another_model_is_no_finished_run(train, model):
    train(model)
    other = model.clone()
    name = "diffusion_model.decoder.layers.0.mlp.down_proj.weight"
    weight = model.model.diffusion_model.decoder.layers[0].mlp.down_proj.weight
    other.add_patches({name: (torch.full(tuple(weight.shape), 0.25),)}, 1.0)
    with pytest.raises(ValueError, match="made with other settings"):
        train(other)


def test_other_songs_are_refused_with_the_models_in_place(train, model, in_place):
    train(model)
    in_place()
    with pytest.raises(ValueError, match=r"its songs differ \(new: 80.wav; gone: 60.wav\)"):
        train(model, lengths=(40, 80), steps=4)


@pytest.fixture
def whole_node(pack, monkeypatch, model, songs, core, loaded, settings):
    """whole_node(act, **changes): TrainLoRA on songs whose encoding first calls `act` and looks whether to go on."""
    wide = model.model.diffusion_model.decoder.config.encoder_hidden_size
    data = dataclasses.replace(songs(wide), notes=("river.wav: left out",))
    clips = core("training.data.clip")
    one = clips.Clip("40.wav", core("blueprint").Blueprint(caption="music"), Path("40.wav"))
    dataset = clips.Dataset("songs", (one, dataclasses.replace(one, name="60.wav")))

    def run(act=lambda: None, options=None, **changes):
        def encode(runtime, *_):
            act()
            runtime.check_cancelled()
            return data

        monkeypatch.setattr(pack("train"), "prepare", encode)
        said = {"name": "style", "preset": "12 GB", "kind": "lora", "rank": 4, "steps": 3, "learning_rate": 1e-3}
        given = {**said, "seed": 1, "if_there": "resume", **changes}
        with torch.inference_mode():
            return pack("").TrainLoRA.execute(
                model, loaded.conditioner, loaded.vae, dataset, **given, options=options or settings()[0]
            )

    return run


def test_stop_while_songs_are_encoded(pack, core, output, whole_node):
    stop, answers = pack("host.stop_training").stop_answer, []
    with pytest.raises(core("errors").ACEStepError, match="stopped before anything was learned; the songs that are"):
        whole_node(lambda: answers.append(stop("")[0]))
    assert answers == [200] and stop("")[0] == 404
    assert not (output / "output" / "acestep_lora" / "style" / "run.json").exists()


def test_stop_while_songs_are_looked_at_gives_what_was_learned_before(pack, output, whole_node, settings, monkeypatch):
    watch, stop = pack("host.training_watch").HostWatcher, pack("host.stop_training").stop_answer
    plain = watch.point
    monkeypatch.setattr(watch, "point", lambda self, point: (plain(self, point), point.step == 2 and stop("")))
    assert "stopped after 2 of 20 steps" in whole_node(steps=20).result[2]
    again = whole_node(lambda: stop(""), steps=20).result[2]
    assert "stopped after 3 of 20 steps; what was learned is kept, 1 step of them now, " in again


def test_what_a_run_says(whole_node, output):
    first = whole_node(steps=1).result[2].splitlines()
    (line,) = [line for line in first if line.startswith("1 step, ")]
    one, all_steps = line.removeprefix("1 step, ").removesuffix(" in all").split(" s a step, ")
    assert round(float(one)) == int(all_steps.removesuffix(" s"))
    assert first.count("river.wav: left out") == 1
    again = whole_node(steps=1).result[2]
    assert "finished before, after 1 step; nothing was trained" in again
    assert "a step" not in again and "in all" not in again and "memory" not in again


def test_a_deleted_run_is_trained_again(pack, whole_node, output):
    mark = pack("").TrainLoRA.fingerprint_inputs
    whole_node(steps=1)
    before = mark(name="style", if_there="resume")
    assert mark(name="style", if_there="resume") == before
    shutil.rmtree(output / "output" / "acestep_lora" / "style" / "final")
    assert mark(name="style", if_there="resume") != before


def test_what_no_song_is_needed_for_is_refused_before_they_are_encoded(whole_node, settings):
    def no_song():
        raise AssertionError("songs were encoded")

    with pytest.raises(ValueError, match="validation_songs is 2 and the dataset has 2"):
        whole_node(no_song, settings(validation_songs=2)[0])


def test_a_run_with_another_rank_is_refused(train, model):
    train(model)
    with pytest.raises(ValueError, match="rank: the run has 4, now 8"):
        train(model, rank=8)


def test_cancel_keeps_what_was_learned(train, model, monkeypatch, pack):
    import comfy.model_management as management

    watch = pack("host.training_watch").HostWatcher
    plain = watch.point

    def press(self, point):
        plain(self, point)
        management.interrupt_current_processing(point.step == 4)

    monkeypatch.setattr(watch, "point", press)
    with pytest.raises(management.InterruptProcessingException):
        train(model, steps=20, checkpoint_every=100)
    assert pack("host.stop_training").stop_answer("")[0] == 404
    monkeypatch.setattr(watch, "point", plain)
    outcome, folder = train(model, steps=20, checkpoint_every=100)
    assert "The run goes on from step 4 of 20." in outcome.watcher.told
    assert [point.step for point in outcome.watcher.points] == list(range(1, 21))
    straight, _ = train(model, "straight", steps=20, checkpoint_every=100)
    ours, theirs = (load_file(one.result.file) for one in (outcome, straight))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_stop_and_keep(train, model, pack, monkeypatch):
    watch = pack("host.training_watch").HostWatcher
    plain = watch.point

    def press(self, point):
        plain(self, point)
        if point.step == 2:
            assert pack("host.stop_training").stop_answer("")[0] == 200

    monkeypatch.setattr(watch, "point", press)
    outcome, _ = train(model, steps=20)
    assert outcome.result.stopped and outcome.result.steps == 2 and outcome.result.file.is_file()


def test_a_sample_is_a_sound_of_the_song(train, model):
    import wave

    outcome, folder = train(model, steps=1, sample_every=1)
    assert "sample: samples/step_000001.wav" in outcome.watcher.told
    with wave.open(str(folder / "samples" / "step_000001.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 48_000, 40 * 1920)


def test_too_little_memory_is_said_first(train, model, monkeypatch):
    import comfy.model_management as management

    monkeypatch.setattr(management, "get_free_memory", lambda *_, **both: (1, 0) if both else 1)
    outcome, _ = train(model)
    assert "with recomputation" in outcome.lines[0]
    assert any(line.startswith("warning: training needs about") for line in outcome.watcher.told)
