"""The planner on a CUDA card: recorded steps against plain ones, no waiting for the device, fallback, cancel, speed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from acestep_models.errors import Cancelled
from acestep_models.graphs import Graphs, record_cuda
from acestep_models.planner import static
from acestep_models.planner.decode import CodesRequest, write_codes
from acestep_models.planner.generate import write_text
from acestep_models.planner.sampling import TokenSampling, pick
from acestep_models.runtime import PlainRuntime

sys.path.append(str(Path(__file__).resolve().parents[1] / "planner"))

from small_lm import CODES, network, prompt, script, small_lm, tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
REQUEST = CodesRequest((prompt(1, 20), prompt(2, 33)), prompt(999, 9), 60, (4, 5))


@pytest.fixture(autouse=True)
def on_the_card(monkeypatch):
    """fp32 without TF32; small windows, so that a song crosses several; the network goes home afterwards."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(static, "WINDOW", 16)
    yield
    network().to("cpu")


def counted(fail=False):
    made = []

    def record(step):
        if fail and not made:
            made.append(None)
            return record_cuda(lambda: (step(), torch.zeros(1, device="cuda").item()))
        made.append(record_cuda(step))
        return made[-1]

    return Graphs(record=record), made


def codes(graphs, request=REQUEST):
    return write_codes(PlainRuntime("cuda"), small_lm(graphs), request)


def test_recorded_codes_are_plain_codes_and_those_of_the_cpu():
    graphs, made = counted()
    recorded = codes(graphs)
    assert len(made) >= 4
    assert not graphs.failed
    assert recorded == codes(Graphs(devices=()))
    network().to("cpu")
    assert recorded == write_codes(PlainRuntime(), small_lm(), REQUEST)


def test_recorded_text_is_plain_text():
    rows, graphs = tokenizer().size - CODES, counted()[0]
    found = [
        write_text(
            PlainRuntime("cuda"),
            small_lm(chosen),
            [prompt(seed, 20 + seed) for seed in range(4)],
            [script(seed, 60, rows) for seed in range(4)],
            range(4),
            TokenSampling(),
            50,
        )
        for chosen in (graphs, Graphs(devices=()))
    ]
    assert found[0] == found[1]
    assert not graphs.failed


def test_a_step_that_waits_for_the_device_cannot_be_recorded_and_the_rest_goes_on():
    """`.item()` breaks a capture; the codes, torch's random numbers and later captures are unharmed."""
    graphs, _ = counted(fail=True)
    expected = codes(Graphs(devices=()))
    assert codes(graphs) == expected
    assert graphs.failed
    assert torch.randn(3, device="cuda").isfinite().all()
    fresh, made = counted()
    assert codes(fresh) == expected
    assert made and not fresh.failed


@pytest.mark.parametrize(
    "sampling", [TokenSampling(), TokenSampling(top_k=50, min_p=0.01), TokenSampling(0.0)], ids=str
)
def test_sampling_does_not_wait_and_agrees_with_the_cpu(sampling, rng):
    logits, numbers = 3 * torch.randn(8, 64_000, generator=rng(1)), torch.rand(8, generator=rng(2))
    there = logits.cuda(), numbers.cuda()
    pick(*there, sampling)
    torch.cuda.set_sync_debug_mode("error")
    try:
        chosen = pick(*there, sampling)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(chosen.cpu(), pick(logits, numbers, sampling))


@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_does_not_wait(recorded, monkeypatch):
    """Between the looks at the logits no step reads anything back; events only are waited for."""
    from acestep_models.planner import decode

    monkeypatch.setattr(static, "WINDOW", 512)
    step, count = decode._CodesRun.step, []

    def strict(run):
        count.append(run)
        torch.cuda.set_sync_debug_mode("error" if len(count) > 3 else "default")
        try:
            step(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(decode._CodesRun, "step", strict)
    codes(Graphs() if recorded else Graphs(devices=()))
    assert len(count) == 60


def test_cancel_within_a_few_tokens():
    runtime = PlainRuntime("cuda")
    runtime.progress = lambda done, total: setattr(runtime, "cancel", done == 10)
    with pytest.raises(Cancelled):
        write_codes(runtime, small_lm(), REQUEST)
    torch.cuda.synchronize()


def test_twenty_songs_leave_no_memory_behind():
    for number in range(20):
        codes(Graphs())
        if number == 2:
            settled = torch.cuda.memory_allocated()
    assert torch.cuda.memory_allocated() <= settled + (1 << 20)
