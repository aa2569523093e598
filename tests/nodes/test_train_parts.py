"""Pieces of training in ComfyUI: a decoder of its own, run folders, the picture and the stop button."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

ORANGE, BLUE = (255, 176, 64), (96, 178, 255)


@pytest.fixture
def training(pack):
    return pack("host.training")


def test_own_decoder_plays_as_the_model_and_can_be_trained_through(model, training, velocity_of):
    theirs = model.model.diffusion_model.decoder
    assert next(theirs.parameters()).is_inference()
    with torch.inference_mode():
        expected = velocity_of(theirs)
        with torch.inference_mode(False):
            own = training.own_decoder(model, torch.device("cpu"))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in own.state_dict().items())
    assert (velocity_of(own) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert {type(layer) for layer in own.modules() if hasattr(layer, "weight")} <= {
        nn.Linear,
        nn.Conv1d,
        nn.ConvTranspose1d,
        nn.RMSNorm,
    }
    assert not any(p.is_inference() or p.requires_grad or p.is_meta for p in own.parameters())
    shared = {p.data_ptr() for p in theirs.parameters()} & {p.data_ptr() for p in own.parameters()}
    assert not shared
    own.layers[0].mlp.down_proj.weight.requires_grad_(True)
    velocity_of(own).square().sum().backward()
    assert own.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0


def test_own_decoder_has_the_patches_of_the_wire(pack, model, training):
    weight = model.model.diffusion_model.decoder.layers[0].mlp.down_proj.weight
    patched = model.clone()
    add = torch.full(tuple(weight.shape), 0.25)
    patched.add_patches({"diffusion_model.decoder.layers.0.mlp.down_proj.weight": (add,)}, 2.0)
    own = training.own_decoder(patched, torch.device("cpu"))
    assert torch.allclose(own.layers[0].mlp.down_proj.weight, weight.clone() + 0.5, atol=1e-6)
    assert torch.equal(
        own.layers[1].mlp.down_proj.weight, model.model.diffusion_model.decoder.layers[1].mlp.down_proj.weight
    )
    assert training.source_name(model) == model.cached_patcher_init[1][0].name
    assert training.source_name(patched).endswith(" with patches")


def test_quantised_models_are_refused(model, training):
    layer = model.model.diffusion_model.decoder.layers[0].self_attn.q_proj
    layer.weight = nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match=r"quantised, among them layers\.0\.self_attn\.q_proj\.weight \(float8_e4m3fn"):
        training.check_trainable(model)


def test_another_model_is_refused(training):
    with pytest.raises(ValueError, match="expected an ACE-Step 1.5 decoder, got NoneType"):
        training.check_trainable(SimpleNamespace())


def test_the_host_is_told_of_the_training_and_told_when_it_is_over(training, monkeypatch):
    import comfy.model_management as management

    asked = []
    monkeypatch.setattr(management, "free_memory", lambda need, device: asked.append((need, device)))
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 1000)
    monkeypatch.setattr(management, "in_training", False, raising=False)
    with pytest.raises(KeyError), training.seat(500, torch.device("cpu")) as free:
        assert management.in_training is True and free > 0
        raise KeyError("stopped")
    assert management.in_training is False
    assert asked == [(1500, torch.device("cpu"))]


def test_run_folders(training, output):
    root = output / "output" / "acestep_lora"
    assert training.run_folder(" my_style ", False) == training.run_folder("my_style", True) == root / "my_style"
    (root / "my_style").mkdir(parents=True)
    (root / "my_style_2").mkdir()
    assert training.run_folder("my_style", False) == root / "my_style"
    assert training.run_folder("my_style", True) == root / "my_style_3"
    with pytest.raises(ValueError, match="name: expected a plain name"):
        training.run_folder("../out", False)
    shown = training.shown_picture(root / "my_style" / "loss.png")
    assert shown == {"filename": "loss.png", "subfolder": "acestep_lora/my_style", "type": "output"}


def test_a_copy_is_made_once_and_again_when_it_is_gone(pack, output):
    save, file = pack("host.save_lora"), output / "result.safetensors"
    file.write_bytes(b"one")
    first = save.copy_lora(file, "style")
    assert first.name == "style_00001_.safetensors" and first.read_bytes() == b"one"
    assert save.copy_lora(file, "style") == first
    file.write_bytes(b"two")
    assert save.copy_lora(file, "style").name == "style_00002_.safetensors"
    first.unlink()
    file.write_bytes(b"one")
    assert save.copy_lora(file, "style").name == "style_00003_.safetensors"  # numbers are never taken twice
    assert sorted(path.name for path in (output / "loras").iterdir()) == [
        "style_00002_.safetensors",
        "style_00003_.safetensors",
    ]


@pytest.fixture
def points(core):
    """points(losses, validation={}) -> the points of a run."""
    point = core("training.job").Point

    def make(losses, validation=None, steps=None):
        checked = validation or {}
        return [
            point(n, steps or len(losses), loss, loss, checked.get(n), 1e-4, 1.0, 0.5, 0)
            for n, loss in enumerate(losses, 1)
        ]

    return make


def pixels(picture, color):
    """(x, y) of every pixel of a color."""
    wide, _ = picture.size
    raw = picture.tobytes()
    return [(n % wide, n // wide) for n in range(len(raw) // 3) if tuple(raw[3 * n : 3 * n + 3]) == color]


def test_the_picture_shows_falling_losses_as_falling(pack, points):
    draw = pack("host.loss_picture").loss_picture
    picture = draw(points([1.0 - n / 100 for n in range(100)], {50: 0.5, 100: 0.0}), "a run")
    assert picture.size == (640, 360) and picture.mode == "RGB"
    curve = [(x, y) for x, y in pixels(picture, BLUE) if y > 40]  # the legend is above
    left, right = min(curve), max(curve)
    assert left[0] < 70 and right[0] > 610 and right[1] - left[1] > 200
    assert any(y > 250 and x > 600 for x, y in pixels(picture, ORANGE))


def test_the_validation_before_the_first_step_has_its_dot(pack, points):
    draw = pack("host.loss_picture").loss_picture
    plain, dotted = (draw(points([1.0, 0.8, 0.6]), "", first) for first in (None, (0, 0.9)))
    assert not [at for at in pixels(plain, ORANGE) if at[1] > 40]
    dot = [at for at in pixels(dotted, ORANGE) if at[1] > 40]
    assert min(x for x, _ in dot) == 64 - 3 and max(x for x, _ in dot) == 64 + 3  # the left edge is step 0
    low, high = 0.6 - 0.032, 1.0 + 0.032
    middle = sum(y for _, y in dot) / len(dot)
    assert abs(middle - (324 - (0.9 - low) / (high - low) * (324 - 40))) < 1


@pytest.mark.parametrize("losses", [[], [0.5], [0.5] * 9, [math.nan, math.inf], [0.0, 0.0]])
def test_the_picture_of_little_is_no_error(pack, points, losses):
    assert pack("host.loss_picture").loss_picture(points(losses), "").size == (640, 360)


def test_a_long_run_is_drawn_quickly_and_to_its_end(pack, points):
    picture = pack("host.loss_picture").loss_picture(points([1.0 + n % 7 for n in range(20_000)]), "")
    assert max(x for x, y in pixels(picture, BLUE) if y > 40) > 610


def test_stop_reaches_the_run_of_its_node_only(pack, monkeypatch):
    stop = pack("host.stop_training")
    assert stop.stop_answer("") == (404, {"error": "nothing is being trained"})
    monkeypatch.setattr(stop, "get_executing_context", lambda: SimpleNamespace(node_id="5:7"))
    with stop.TRAININGS.running() as event:
        assert stop.stop_answer('{"node": "8"}') == (404, {"error": "nothing is being trained in node 8"})
        assert not event.is_set()
        for text in ("nonsense", "[1]"):
            assert stop.stop_answer(text)[0] == 400
        assert stop.stop_answer('{"node": 7}') == (200, {"stopping": ["5:7"]})
        assert event.is_set()
        assert stop.stop_answer("")[0] == 200
    assert stop.stop_answer("")[0] == 404


def test_a_run_that_begins_while_one_is_stopped_is_no_error(pack):
    trainings = pack("host.stop_training").TRAININGS

    class Late(str):
        """Compared with a name, it has another run begin: the server's thread and the worker's are two."""

        __hash__ = str.__hash__

        def __eq__(self, other):
            trainings._running[f"late {len(trainings._running)}"] = None
            return False

    with trainings.running():
        assert trainings.stop(Late("7")) == []
    trainings._running.clear()


@pytest.fixture
def watcher(pack, monkeypatch):
    """watcher.at(seconds) sets the clock of a watcher, whose lines are in `said`."""
    module, now, said = pack("host.training_watch"), [0.0], []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    made = module.HostWatcher(SimpleNamespace(say=said.append), None, None)
    made.said, made.at = said, lambda seconds: now.__setitem__(0, seconds)
    return made


@pytest.fixture
def plan(core, tmp_path):
    """plan(history, validation) -> what a run of ten steps says at its start."""
    module = core("training.job")

    def make(history=(), validation=None):
        start = history[-1].step if history else 0
        return module.RunPlan(tmp_path, start, 10, 1, 1, 1, False, validation, tuple(history))

    return make


def test_the_time_left_counts_all_that_a_step_takes(watcher, plan, points):
    before, *after = points([0.5] * 10)
    watcher.at(100.0)
    watcher.started(plan([before]))
    for number, point in enumerate(after[:4], 1):
        watcher.at(100.0 + 3 * number)  # 0.5 s of it the step itself
        watcher.point(point)
    assert watcher.said[-1] == "step 5 of 10, average 0.5000, 3.00 s a step, 15 s left"
    assert (watcher.seconds, len(watcher.session)) == (12.0, 4)


def test_the_peak_is_that_of_this_session(watcher, plan, points):
    old, *new = (
        dataclasses.replace(point, peak_bytes=size) for point, size in zip(points([1] * 3), (9, 2, 3), strict=True)
    )
    watcher.started(plan([old]))
    assert watcher.peak_bytes == 0
    for point in new:
        watcher.point(point)
    assert watcher.peak_bytes == 3


@pytest.mark.parametrize(
    ("checks", "expected"), [({}, (0, 0.7)), ({2: 0.6}, (0, 0.7)), ({1: 0.7}, None)], ids=["new", "old", "drawn"]
)
def test_where_the_first_validation_belongs(watcher, plan, points, checks, expected):
    watcher.started(plan(points([0.5] * 3, checks)[: max(checks, default=0)], 0.7))
    assert watcher._first() == expected


@pytest.mark.parametrize("error", [OSError("disk"), RuntimeError("disk\nmore"), ValueError("disk")])
def test_a_failed_sample_is_said_once_and_ends_no_run(watcher, error):
    def fail(*_):
        raise error

    watcher._samples = SimpleNamespace(make=fail)
    watcher.sample(None, 10)
    watcher.sample(None, 20)
    assert watcher.told == ["no sample at step 10: disk"] == watcher.said


def test_cancel_in_a_sample_is_a_cancel(watcher):
    import comfy.model_management as management

    def cancel(*_):
        raise management.InterruptProcessingException

    watcher._samples = SimpleNamespace(make=cancel)
    with pytest.raises(management.InterruptProcessingException):
        watcher.sample(None, 10)


def test_the_route_is_added_once(pack, monkeypatch):
    import sys

    stop, routes = pack("host.stop_training"), []
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=routes_of(routes))))
    monkeypatch.setitem(sys.modules, "server", server)
    stop.add_stop_route()
    stop.add_stop_route()
    assert [route.path for route in routes] == ["/acestep/training/stop"]


def routes_of(found):
    """A table of routes as aiohttp's: iterable, and with decorators."""

    class Table:
        def __iter__(self):
            return iter(found)

        def post(self, path):
            return lambda handler: found.append(SimpleNamespace(path=path))

    return Table()


def test_times_are_told_as_people_say_them(pack):
    said = pack("host.training_watch").in_time
    assert [said(n) for n in (0.4, 89, 90, 3600, 5400, 7500)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "1 h 30 min",
        "2 h 05 min",
    ]
