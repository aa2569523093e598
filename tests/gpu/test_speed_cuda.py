"""Real CUDA graphs and compiled layers of the decoder on a card."""

from __future__ import annotations

import pytest
import torch

from acestep_models.compiled import Compiler
from acestep_models.dit.config import DiTConfig
from acestep_models.dit.speed import MOST_GRAPHS, Speed, Steps
from acestep_models.dit.transformer import DiT
from acestep_models.graphs import Graphs, record_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FRAMES = 750


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def dit():
    """Two layers as wide as the published ones, of both kinds."""
    torch.manual_seed(1)
    network = DiT(DiTConfig(num_hidden_layers=2), device="cuda").eval().requires_grad_(False)
    for weight in network.parameters():
        weight.copy_(torch.randn_like(weight) * 0.02 if weight.ndim > 1 else 1 + 0.1 * torch.randn_like(weight))
    return network


def song(dit, seed, told=None):
    random = torch.Generator("cuda").manual_seed(seed)
    x, context = (torch.randn(1, FRAMES, wide, generator=random, device="cuda") for wide in (64, 128))
    if told is None:
        told = dit.tell(torch.randn(1, 300, 2048, generator=random, device="cuda"), FRAMES)
    return x, context, told, torch.rand(1, generator=random, device="cuda")


@pytest.mark.parametrize("compiled", [False, True], ids=["graphs", "compiled graphs"])
def test_a_replayed_step_is_the_step(dit, relative_error, compiled):
    counted = []

    def record(step):
        counted.append(1)
        return record_cuda(step)

    speed = Speed(Compiler("the decoder") if compiled else None, Graphs(record=record))
    steps, told = Steps(speed), song(dit, 0)[2]
    songs = [song(dit, seed, told) for seed in range(4)]
    found = [steps.velocity(dit, *given) for given in songs]
    for mine, given in zip(found, songs, strict=True):
        assert relative_error(mine, dit(*given)) < 1e-4
    assert counted == [1] and speed.graphs.failed == ""
    assert not compiled or speed.compiler.failed == ""


def test_a_step_that_cannot_be_recorded_goes_on_plainly(dit, relative_error, caplog):
    def record(step):
        return record_cuda(lambda: (step(), torch.cuda.synchronize()))

    speed, given = Speed(graphs=Graphs(record=record, name="A step of the decoder")), song(dit, 1)
    steps = Steps(speed)
    for _ in range(3):
        assert relative_error(steps.velocity(dit, *given), dit(*given)) < 1e-4
    assert speed.graphs.failed and len(caplog.messages) == 1


def test_forty_recordings_leave_no_memory_behind(dit):
    """Each run records two kinds, which share their memory; a stream for each would keep a workspace for each."""
    graphs = Graphs(name="A step of the decoder")
    for number in range(20):
        speed = Speed(graphs=graphs)
        steps = Steps(speed)
        for seed in (1, 2):
            steps.velocity(dit, *song(dit, seed))
        del steps
        if number == 2:
            settled = torch.cuda.memory_allocated()
    assert graphs.failed == "" and torch.cuda.memory_allocated() <= settled + (1 << 20)


def test_recordings_of_a_run_share_the_memory_of_one(dit):
    """What the second adds is its inputs and what it was told, and no second set of activations."""

    def reserved(count):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before, steps = torch.cuda.memory_reserved(), Steps(Speed(graphs=Graphs()))
        for given in songs[:count]:
            steps.velocity(dit, *given)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() - before

    songs = [song(dit, seed) for seed in range(MOST_GRAPHS)]
    reserved(1)
    assert reserved(MOST_GRAPHS) < 2 * reserved(1)


def test_without_room_a_run_goes_on_without_and_the_next_one_records(dit, relative_error):
    speed, given = Speed(graphs=Graphs()), song(dit, 1)
    plain = dit(*given)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 22)) / total)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            record_cuda(lambda: torch.empty(1 << 24, device="cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    steps = Steps(speed)
    for _ in range(2):
        assert relative_error(steps.velocity(dit, *given), plain) < 1e-4
    assert speed.graphs.failed == "" and not steps._recorder.given_up


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_raised_within_a_recording_leaves_the_card_right(error):
    """The host raises a cancel within a layer, and it is no RuntimeError."""

    def step():
        torch.zeros(4, device="cuda")
        raise error

    with pytest.raises(error):
        record_cuda(step)
    assert torch.randn(3, device="cuda").isfinite().all()
    record_cuda(lambda: torch.zeros(4, device="cuda")).replay()


def test_compiled_layers_of_several_lengths(dit, relative_error):
    speed = Speed(Compiler("the decoder", dynamic=None))
    for frames in (250, 750, 1500, 1502):
        random = torch.Generator("cuda").manual_seed(frames)
        x, context = (torch.randn(1, frames, wide, generator=random, device="cuda") for wide in (64, 128))
        told = dit.tell(torch.randn(1, 300, 2048, generator=random, device="cuda"), frames)
        given = (x, context, told, torch.rand(1, generator=random, device="cuda"))
        assert relative_error(Steps(speed).velocity(dit, *given), dit(*given)) < 1e-4
    assert speed.compiler.failed == ""
