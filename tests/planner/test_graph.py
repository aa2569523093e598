"""When a step is recorded, replayed, or given up; without a card."""

from __future__ import annotations

import pytest
import torch

from acestep_models.errors import Cancelled
from acestep_models.planner.graph import Graphs, Recorder, record_cuda


class Recording:
    def __init__(self, log, number):
        self._log, self._number = log, number

    def replay(self):
        self._log.append(f"replay {self._number}")


@pytest.fixture
def log():
    return []


def graphs(log, fails=()):
    def record(step):
        number = sum(entry.startswith("record") for entry in log)
        log.append(f"record {number}")
        if number in fails:
            raise RuntimeError("no capture today")
        return Recording(log, number)

    return Graphs(record=record, devices=("cpu",))


def test_the_first_step_of_a_kind_is_done_and_recorded_the_others_replayed(log):
    recorder = Recorder(graphs(log))
    for kind in ("a", "a", "a", "b", "b", "a"):
        recorder.run(kind, lambda: log.append("step"))
    assert log == ["step", "record 0", *["replay 0"] * 2, "step", "record 1", "replay 1", "step", "record 2"]


def test_a_failure_counts_for_the_life_of_the_lm(log, caplog):
    switch = graphs(log, fails=(1,))
    recorder = Recorder(switch)
    recorder.run("a", lambda: log.append("step"))
    assert switch.work_on(torch.device("cpu"))
    recorder.run("b", lambda: log.append("step"))
    assert log == ["step", "record 0", "step", "record 1"], "the step was done once all the same"
    assert not switch.work_on(torch.device("cpu"))
    assert switch.failed == "no capture today"
    assert "no capture today" in caplog.text


def test_cancel_while_recording_passes_through():
    def cancelled(step):
        raise Cancelled("the run was cancelled")

    switch = Graphs(record=cancelled, devices=("cpu",))
    with pytest.raises(Cancelled):
        Recorder(switch).run("a", lambda: None)
    assert switch.failed == ""


def test_only_a_card_is_worth_a_try():
    assert Graphs().work_on(torch.device("cuda"))
    assert not Graphs().work_on(torch.device("cpu"))
    assert not Graphs().work_on(torch.device("mps"))


class FakeCard:
    """As much of torch.cuda as a recording uses; a capture in which something fails cannot be ended either."""

    def __init__(self, monkeypatch):
        self.log = log = []
        broken = self.broken = []

        class Graph:
            def capture_begin(self, capture_error_mode):
                log.append(f"begin {capture_error_mode}")

            def capture_end(self):
                log.append("end")
                if broken:
                    broken.clear()
                    raise RuntimeError("capture was invalidated")

            def reset(self):
                log.append("reset")

        class Stream:
            def __enter__(self):
                return self

            def __exit__(self, *how):
                return False

            def wait_stream(self, other):
                log.append("wait")

        fakes = {"CUDAGraph": Graph, "Stream": Stream, "stream": lambda stream: stream}
        fakes |= {"current_stream": Stream, "synchronize": lambda: log.append("synchronize")}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch, "zeros", lambda *size, device: log.append(f"zeros on {device}"))


def test_a_recording_on_a_card(monkeypatch):
    card = FakeCard(monkeypatch)
    record_cuda(lambda: card.log.append("step"))
    assert card.log == ["wait", "begin thread_local", "step", "end", "wait"]


def test_after_a_failed_recording_the_card_is_put_right(monkeypatch):
    """The error that came first is told; a capture that ends well follows, so that torch leaves its capture mode."""
    card = FakeCard(monkeypatch)

    def step():
        card.broken.append(True)
        raise RuntimeError("not permitted")

    with pytest.raises(RuntimeError, match="not permitted"):
        record_cuda(step)
    again = ["begin thread_local", "zeros on cuda", "end"]
    assert card.log == ["wait", "begin thread_local", "end", "synchronize", "reset", *again, "synchronize"]


def test_cancel_within_a_recording_is_not_hidden_by_it(monkeypatch):
    card = FakeCard(monkeypatch)

    def step():
        card.broken.append(True)
        raise Cancelled("the run was cancelled")

    with pytest.raises(Cancelled):
        record_cuda(step)
