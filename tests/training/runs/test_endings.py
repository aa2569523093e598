"""Every way in which a run can end: what is kept, what is freed, what is said (spec/lora.md §6 tests 15 and 22)."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from acestep_models.adapters.files import read_adapter
from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.runtime import PlainRuntime
from acestep_models.training import checkpoint as checkpoint_module
from acestep_models.training import loop as loop_module
from acestep_models.training import step as step_module
from acestep_models.training.around import Around, RunPlan
from acestep_models.training.checkpoint import Checkpoints, Counters
from acestep_models.training.loop import Loop
from acestep_models.training.metrics import Metrics
from acestep_models.training.options import TrainOptions


class CancelAt(PlainRuntime):
    """Cancels when it is asked for the n-th time, from 1."""

    def __init__(self, calls, error=Cancelled):
        super().__init__()
        self.left, self.error = calls, error

    def check_cancelled(self):
        self.left -= 1
        if self.left == 0:
            raise self.error("stop")


class HostCancel(BaseException):
    """As ComfyUI's, which is no Exception."""


def fingerprint(decoder):
    digest = hashlib.sha256()
    for name, value in sorted(decoder.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def as_it_was(decoder, before):
    """No trained layer, gradient, wrapper or frozen parameter is left, and no weight differs."""
    assert fingerprint(decoder) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in decoder.parameters())
    kinds = {type(module).__module__ for module in decoder.modules()}
    assert not any("training" in kind for kind in kinds)
    assert not any("forward" in vars(layer) for layer in decoder.layers)


@pytest.mark.parametrize("error", [pytest.param(Cancelled, marks=pytest.mark.slow), HostCancel])
def test_cancel_in_the_middle_of_a_step(kit, tmp_path, last_state, same, error):
    decoder = kit.make_decoder()
    before = fingerprint(decoder)
    with pytest.raises(error, match="stop"):
        kit.run(
            tmp_path / "run", decoder, runtime=CancelAt(8, error), checkpoint_every=100
        )  # step 4, second micro-step
    as_it_was(decoder, before)
    folder = tmp_path / "run" / "checkpoints" / "step_000003"
    assert len(read_adapter(folder).deltas) == 2 * 8
    kit.run(tmp_path / "run", decoder, checkpoint_every=100)
    kit.run(tmp_path / "whole", decoder, checkpoint_every=100)
    assert same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))
    as_it_was(decoder, before)


def test_stop_and_keep_gives_a_result(kit, tmp_path):
    watch = kit.Watch(stop=3)
    result = kit.run(tmp_path / "my style", watcher=watch, checkpoint_every=100, validate_every=100, variant="turbo")
    assert (result.steps, result.stopped, len(watch.points)) == (3, True, 3)
    assert result.file.name == "my style.safetensors"
    assert (tmp_path / "my style" / "checkpoints" / "step_000003").is_dir()
    single, folder = read_adapter(result.file), read_adapter(result.folder)
    for name, delta in folder.deltas.items():
        assert torch.equal(delta.up, single.deltas[name].up)
        assert torch.equal(delta.down, single.deltas[name].down)
        assert delta.scale == single.deltas[name].scale == 1
    facts = single.facts
    assert (facts.trigger, facts.trigger_position, facts.base_variant) == ("tango nuevo", "prepend", "turbo")
    assert facts.conditioning == "acestep-15 inference"
    assert facts.metadata["steps"] == "3"
    assert json.loads(facts.metadata["training"])["rank"] == 4


def test_a_result_says_how_good_it_is(kit, tmp_path, monkeypatch):
    """Stopped between two validations, it is measured once more."""
    losses = iter((3.0, 2.0, 1.0))
    monkeypatch.setattr(step_module.Stepper, "validate", lambda _: next(losses))
    result = kit.run(tmp_path / "run", watcher=kit.Watch(stop=3), checkpoint_every=100, validate_every=2)
    assert result.validation == (3.0, 1.0)  # before, after step 2, after step 3
    said = json.loads((tmp_path / "run" / "checkpoints" / "step_000003" / "checkpoint.json").read_text())
    assert said["validation"] == 1.0


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(8, id="first", marks=pytest.mark.slow),
        pytest.param(8 + 2 * 3 + 3, id="in the middle"),
        pytest.param(8 + 2 * 3 + 8 + 2 * 3 + 5, id="last", marks=pytest.mark.slow),
    ],
)
def test_cancel_in_a_validation_loses_nothing(kit, tmp_path, last_state, metrics, same, calls):
    """Asked once an item: 8 of a validation (before step 1, after 3 and 6), 2 of a step."""
    options = {"checkpoint_every": 3, "validate_every": 3}
    with pytest.raises(Cancelled):
        kit.run(tmp_path / "run", runtime=CancelAt(calls), **options)
    kit.run(tmp_path / "run", **options)
    kit.run(tmp_path / "whole", **options)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))
    listed = [sorted((tmp_path / name / "checkpoints").glob("*/checkpoint.json")) for name in ("run", "whole")]
    ours, theirs = ([json.loads(path.read_text())["validation"] for path in paths] for paths in listed)
    assert ours == theirs
    assert None not in ours
    ours, theirs = (json.loads((tmp_path / name / "final" / "result.json").read_text()) for name in ("run", "whole"))
    assert ours["validation"] == theirs["validation"]


@pytest.mark.parametrize("where", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupt_in_a_save_loses_nothing(kit, tmp_path, monkeypatch, last_state, same, where):
    """Ctrl-C while the checkpoint of a step is written: it is written then, and the interrupt goes on."""
    saves, real = SimpleNamespace(count=0), torch.save

    def interrupted(*inputs):
        saves.count += 1
        if saves.count == where:
            raise KeyboardInterrupt
        real(*inputs)

    monkeypatch.setattr(checkpoint_module.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kit.run(tmp_path / "run")
    assert saves.count == where + 1
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == f"step_{2 * where:06d}"
    kit.run(tmp_path / "run")
    kit.run(tmp_path / "whole")
    assert same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))


def test_a_refused_save_is_not_tried_twice(kit, tmp_path, monkeypatch):
    tries = []

    def full(*inputs):
        tries.append(inputs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", full)
    with pytest.raises(ACEStepError, match="the checkpoint of step 2 could not be written"):
        kit.run(tmp_path / "run")
    assert len(tries) == 1


@pytest.mark.parametrize("broken", ["adapter", "say"])
def test_an_error_in_the_rescue_does_not_hide_the_first(kit, tmp_path, monkeypatch, broken):
    def fail(*_, **__):
        raise TypeError("unsupported format string")

    watch = kit.Watch()
    if broken == "say":
        watch.say = fail
    else:
        monkeypatch.setattr(loop_module.Loop, "adapter", fail)
    with pytest.raises(Cancelled):
        kit.run(tmp_path / "run", watcher=watch, runtime=CancelAt(4), checkpoint_every=100)
    assert watch.words == (
        [] if broken == "say" else ["What was learned since the last checkpoint is lost: unsupported format string"]
    )


def test_a_log_that_cannot_be_written_ends_no_run(kit, tmp_path, monkeypatch, metrics):
    """Said once; the lines follow when there is room again."""
    real, tries = loop_module.Metrics._write, SimpleNamespace(count=0)

    def full(self):
        tries.count += 1
        self.path = tmp_path / ("gone" if tries.count < 4 else "run") / "metrics.jsonl"
        real(self)

    monkeypatch.setattr(loop_module.Metrics, "_write", full)
    watch = kit.Watch()
    result = kit.run(tmp_path / "run", watcher=watch)
    assert len(watch.points) == 6
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert result.notes == tuple(watch.words)
    assert len(watch.words) == 1
    assert str(tmp_path / "gone" / "metrics.jsonl") in watch.words[0]
    assert "make room on that disk before the next checkpoint" in watch.words[0]


def test_a_pointer_that_cannot_be_written_is_no_failed_checkpoint(kit, tmp_path):
    kit.run(tmp_path / "run", watcher=kit.Watch(stop=1))
    (tmp_path / "run" / "checkpoints" / "latest").unlink()
    (tmp_path / "run" / "checkpoints" / "latest" / "of somebody").mkdir(parents=True)
    result = kit.run(tmp_path / "run", steps=2)
    assert result.steps == 2
    assert any("latest could not be written" in note for note in result.notes)
    assert (tmp_path / "run" / "checkpoints" / "step_000002").is_dir()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_validation_that_is_no_number_is_never_the_best(tmp_path, bad):
    checkpoints = Checkpoints(tmp_path)
    for step, loss in ((1, 0.5), (2, bad), (3, 0.75)):
        folder = checkpoints.folder / f"step_{step:06d}"
        folder.mkdir(parents=True)
        listed = checkpoint_module._contents(folder, Counters(step=step, last=loss, measured=step))
        assert (listed["validation"] is None) == (step == 2)
        (folder / "checkpoint.json").write_text(json.dumps({**listed, "validation": loss}))  # as it was written once
    assert checkpoints.best(3) == (checkpoints.folder / "step_000001", 0.5)
    checkpoints.prune(3, keep=1)
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == ["step_000001", "step_000003"]


def test_a_run_whose_validations_are_no_numbers(kit, tmp_path, monkeypatch):
    losses = iter((2.0, float("nan"), 1.0, float("nan")))
    monkeypatch.setattr(step_module.Stepper, "validate", lambda _: next(losses))
    watch = kit.Watch()
    result = kit.run(tmp_path / "run", watcher=watch, validate_every=2)
    assert result.validation is None
    assert watch.words == ["A validation loss was not a finite number: it does not count."]
    assert result.notes[-1] == (
        f"The validation loss is lowest, 1, in {tmp_path / 'run' / 'checkpoints' / 'step_000004'}."
    )
    assert not any("NaN" in path.read_text() for path in (tmp_path / "run").rglob("*.json*"))


def test_the_peak_is_the_runs_own(tmp_path, monkeypatch):
    asked, card = [], torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    draws = SimpleNamespace(options=TrainOptions(steps=1, validate_every=0))
    stepper = SimpleNamespace(device=card, draws=draws, clear=lambda: None)
    metrics, counters = Metrics(tmp_path), Counters(step=1)
    loop = Loop(stepper, None, None, None, Checkpoints(tmp_path), metrics, Around(), None, counters=counters)
    assert not loop.run(RunPlan(tmp_path, 1, 1, 1, 1, 1, recompute=False))
    assert asked == [card]


@pytest.mark.slow
def test_works_inside_inference_mode(kit, tmp_path, last_state, same):
    decoder, data = kit.make_decoder(), kit.make_data(20, 30, 20, 40)
    with torch.inference_mode():
        kit.run(tmp_path / "inside", decoder, data)
    kit.run(tmp_path / "outside", decoder, data)
    assert same(last_state(tmp_path / "inside"), last_state(tmp_path / "outside"))


def memory_runs_out(decoder, call):
    """The decoder's `call`-th pass without recomputation has no memory; with it, all have."""
    passes = SimpleNamespace(count=0)

    def forward(_module, _inputs):
        passes.count += 1
        if passes.count == call and "forward" not in vars(decoder.layers[0]):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    decoder.register_forward_pre_hook(forward)
    return decoder


def test_out_of_memory_switches_recomputation_on_once(kit, tmp_path, last_state, same):
    watch = kit.Watch()
    result = kit.run(tmp_path / "tight", memory_runs_out(kit.make_decoder(), 6), watcher=watch)
    kit.run(tmp_path / "roomy", recompute="on")
    assert result.notes == tuple(watch.words)
    assert len(watch.words) == 1
    assert "Memory ran out at step 3" in watch.words[0]
    assert len(watch.points) == 6
    ours, theirs = last_state(tmp_path / "tight")[0], last_state(tmp_path / "roomy")[0]
    assert same(ours, theirs)


def test_out_of_memory_without_a_way_out_keeps_a_checkpoint(kit, tmp_path):
    decoder = memory_runs_out(kit.make_decoder(), 6)
    watch = kit.Watch()
    with pytest.raises(ACEStepError, match="memory ran out at step 3 .*set recompute to on.*lower the rank 4"):
        kit.run(tmp_path / "run", decoder, watcher=watch, recompute="off", checkpoint_every=100)
    assert (tmp_path / "run" / "checkpoints" / "step_000002").is_dir()
    assert watch.words == [
        f"What was learned until step 2 is kept in {tmp_path / 'run' / 'checkpoints' / 'step_000002'}."
    ]


def bad_losses(monkeypatch, bad):
    """Losses of the micro-batches whose number is in `bad` are not numbers."""
    seen, real = SimpleNamespace(count=-1), step_module.item_losses

    def losses(*inputs):
        seen.count += 1
        return real(*inputs) * (float("nan") if seen.count in bad else 1.0)

    monkeypatch.setattr(step_module, "item_losses", losses)


def test_a_step_that_is_no_number_is_left_out_and_counted(kit, tmp_path, monkeypatch, metrics, last_state):
    bad_losses(monkeypatch, {2})
    result = kit.run(tmp_path / "run")
    assert [line["loss"] is None for line in metrics(tmp_path / "run")] == [False, True, False, False, False, False]
    assert result.notes == ("1 steps were left out: their loss or gradient was not a finite number.",)
    assert all(bool(tensor.isfinite().all()) for tensor in last_state(tmp_path / "run")[0].values())


@pytest.mark.slow
def test_ten_of_them_in_a_row_end_the_run(kit, tmp_path, monkeypatch, last_state):
    bad_losses(monkeypatch, set(range(4, 100)))
    with pytest.raises(ACEStepError, match="in 10 steps in a row .step 12.*lower learning rate"):
        kit.run(tmp_path / "run", steps=40, checkpoint_every=100)
    adapter, state = last_state(tmp_path / "run")
    assert (state["counters"]["step"], state["counters"]["bad"]) == (12, 10)
    assert all(bool(tensor.isfinite().all()) for tensor in adapter.values())


def test_a_full_disk_leaves_the_older_checkpoints_whole(kit, tmp_path, last_state, same):
    """The system itself refuses to let a file grow: state.pt is larger than all others."""
    resource = pytest.importorskip("resource", reason="limits of a process are a matter of POSIX")
    run, watch = tmp_path / "run", kit.Watch()
    kit.run(run, watcher=kit.Watch(stop=2))
    files = sorted(
        (path for path in (run / "checkpoints" / "step_000002").iterdir()), key=lambda path: path.stat().st_size
    )
    assert files[-1].name == "state.pt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (files[-1].stat().st_size - 1000, limits[1]))
    try:
        with pytest.raises(ACEStepError) as caught:
            kit.run(run, watcher=watch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = str(caught.value)
    assert said.startswith(f"{run / 'checkpoints'}: the checkpoint of step 4 could not be written")
    assert "The run can go on from step_000002: make room on that disk" in said
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["latest", "step_000002"]
    assert (run / "checkpoints" / "latest").read_text() == "step_000002"
    kit.run(run)
    kit.run(tmp_path / "whole")
    assert same(last_state(run), last_state(tmp_path / "whole"))


def test_room_is_asked_for_before_the_start(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=100_000))
    with pytest.raises(ACEStepError, match=r"the run needs 0\.\d GB there .*Make room, keep fewer checkpoints"):
        kit.run(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_quantised_weights_are_refused(kit, tmp_path):
    decoder = kit.make_decoder()
    layer = decoder.layers[1].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight is float8_e4m3fn.*Load the bf16 file"):
        kit.run(tmp_path / "run", decoder)
    assert not (tmp_path / "run").exists()


def test_weights_of_inference_mode_are_refused(kit, tmp_path):
    with torch.inference_mode():
        decoder = kit.DiT(kit.CONFIG)
    with pytest.raises(ValueError, match="inside torch.inference_mode"):
        kit.run(tmp_path / "run", decoder)


@pytest.mark.slow
def test_three_runs_leave_nothing_behind(kit, tmp_path):
    decoder = kit.make_decoder()
    before, modules = fingerprint(decoder), len(list(decoder.modules()))
    for number in range(3):
        kit.run(tmp_path / str(number), decoder, steps=1, recompute="on", kind="lokr" if number == 1 else "lora")
        as_it_was(decoder, before)
        assert len(list(decoder.modules())) == modules


@pytest.mark.slow
def test_samples_are_made_when_they_are_due(kit, tmp_path, last_state, same):
    watch = kit.Watch()
    kit.run(tmp_path / "with", watcher=watch, sample_every=3, ema=0.9)
    kit.run(tmp_path / "without", ema=0.9)
    assert watch.samples == [3, 6]
    assert same(last_state(tmp_path / "with"), last_state(tmp_path / "without"))
