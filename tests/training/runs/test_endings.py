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
from acestep_models.training import step as step_module


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
    assert list((tmp_path / "run").iterdir()) == []


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
