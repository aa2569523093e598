"""When a step is recorded, replayed, or given up; without a card."""

from __future__ import annotations

import pytest
import torch

from acestep_models.errors import Cancelled
from acestep_models.graphs import Graphs, Recorder, record_cuda


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


# What goes before a recording: it has memory of its own, and what lies unused must be free for that; and what puts the
# card right after one that failed.
READY = ["synchronize", "empty", "wait"]
RIGHT = ["synchronize", "reset", "begin thread_local", "zeros on cuda", "end", "synchronize"]


class FakeCard:
    """As much of torch.cuda as a recording uses; a capture in which something fails cannot be ended either."""

    def __init__(self, monkeypatch):
        self.log = log = []
        broken, streams = [], []
        self.broken, self.streams = broken, streams

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                log.append(f"begin {capture_error_mode}" + (f" in {pool}" if pool else ""))

            def pool(self):
                return "the first one's"

            def capture_end(self):
                log.append("end")
                if broken:
                    broken.clear()
                    raise RuntimeError("capture was invalidated")

            def reset(self):
                log.append("reset")

        class Stream:
            def __init__(self):
                streams.append(self)

            def __enter__(self):
                return self

            def __exit__(self, *how):
                return False

            def wait_stream(self, other):
                log.append("wait")

        fakes = {"CUDAGraph": Graph, "Stream": Stream, "stream": lambda stream: stream}
        current = Stream()
        fakes |= {"current_stream": lambda: current, "synchronize": lambda: log.append("synchronize")}
        fakes |= {"empty_cache": lambda: log.append("empty"), "current_device": lambda: 0}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch, "zeros", lambda *size, device: log.append(f"zeros on {device}"))


def test_a_recording_on_a_card(monkeypatch):
    card = FakeCard(monkeypatch)
    record_cuda(lambda: card.log.append("step"))
    assert card.log == [*READY, "begin thread_local", "step", "end", "wait"]


def test_recordings_share_a_stream_and_those_of_a_run_their_memory(monkeypatch):
    """A stream of its own for each would leave a workspace of its own on the card."""
    card, switch = FakeCard(monkeypatch), Graphs()
    made = len(card.streams)
    for _ in range(2):
        recorder = Recorder(switch, most=3)
        for kind in "abc":
            recorder.run(kind, lambda: None)
    begun = ["begin thread_local", *["begin thread_local in the first one's"] * 2]
    assert [entry for entry in card.log if entry.startswith("begin")] == 2 * begun
    assert len(card.streams) == made + 1


def test_of_several_recordings_the_oldest_goes(log):
    recorder = Recorder(graphs(log), most=2)
    for kind in ("a", "b", "a", "c", "b", "a"):
        recorder.run(kind, lambda: None)
    assert log == ["record 0", "record 1", "replay 0", "record 2", "replay 1", "record 3"]


def test_without_room_a_run_goes_on_without_and_another_one_tries(log, caplog):
    def full(step):
        log.append("record")
        raise torch.cuda.OutOfMemoryError("full")

    switch = Graphs(record=full, devices=("cpu",))
    for _ in range(2):
        recorder = Recorder(switch)
        for kind in ("a", "a", "b"):
            recorder.run(kind, lambda: log.append("step"))
        assert switch.work_on(torch.device("cpu")) and not recorder.works_on(torch.device("cpu"))
    assert log == ["step", "record", "step", "step"] * 2
    assert len(caplog.messages) == 2 and switch.failed == ""


def test_after_a_failed_recording_the_card_is_put_right(monkeypatch):
    """The error that came first is told; a capture that ends well follows, so that torch leaves its capture mode."""
    card = FakeCard(monkeypatch)

    def step():
        card.broken.append(True)
        raise RuntimeError("not permitted")

    with pytest.raises(RuntimeError, match="not permitted"):
        record_cuda(step)
    assert card.log == [*READY, "begin thread_local", "end", *RIGHT]


def test_cancel_within_a_recording_is_not_hidden_by_it_and_leaves_the_card_right(monkeypatch):
    card = FakeCard(monkeypatch)

    def step():
        card.broken.append(True)
        raise Cancelled("the run was cancelled")

    with pytest.raises(Cancelled):
        record_cuda(step)
    assert card.log == [*READY, "begin thread_local", "end", *RIGHT]
