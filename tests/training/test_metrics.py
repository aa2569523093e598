"""metrics.jsonl: appended line by line, and cut where a run goes on."""

from __future__ import annotations

import errno
import json
import math
import pathlib

import pytest

from acestep_models.errors import ACEStepError
from acestep_models.training.job import Point
from acestep_models.training.metrics import Metrics, smoothed


def point(step, loss=1.0):
    return Point(step, 5, loss, 1.5, None, 1e-4, 0.5, 0.25)


def test_points_come_back_and_later_ones_are_cut(tmp_path):
    metrics = Metrics(tmp_path)
    assert metrics.cut(0) == ()
    for step in (1, 2, 3):
        metrics.add(point(step), by_time=[1.0, None, None, None])
    with metrics.path.open("a") as file:
        file.write('{"step": 4, "lo')  # a crash in the middle of a line
    assert metrics.cut(2) == (point(1), point(2))
    assert len(metrics.path.read_text().splitlines()) == 2
    assert metrics.cut(2) == (point(1), point(2))


def test_what_is_no_number_is_null(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add(point(1, math.nan))
    assert '"loss": null' in metrics.path.read_text()
    assert math.isnan(metrics.cut(1)[0].loss)


@pytest.mark.parametrize(
    "spoiled",
    [
        b'\xff\xfe{"step": 2}',
        b'{"step": 2, "loss": "\xff"}',
        json.dumps({**vars(point(2)), "step": None}).encode(),
        json.dumps({**vars(point(2)), "step": True}).encode(),
        json.dumps({**vars(point(2)), "loss": "low"}).encode(),
        b"[2]",
        b"",
    ],
    ids=["not UTF-8", "not UTF-8 inside", "no step", "a word for a step", "a word for a loss", "a list", "empty"],
)
def test_spoiled_lines_are_dropped(tmp_path, spoiled):
    metrics = Metrics(tmp_path)
    metrics.add(point(1))
    good = metrics.path.read_bytes()
    metrics.path.write_bytes(good + spoiled + b"\n" + good.replace(b'"step": 1', b'"step": 3'))
    again = Metrics(tmp_path)
    assert again.cut(5) == (point(1), point(3))
    again.add(point(4))
    assert [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()] == [1, 3, 4]


def test_a_validation_comes_into_the_last_line_also_after_a_cut(tmp_path):
    metrics = Metrics(tmp_path)
    for step in (1, 2):
        metrics.add(point(step), skipped=step)
    metrics.validated(2, 0.5)
    metrics.validated(1, 0.75)  # that line is final
    metrics.add(point(3), skipped=3)
    again = Metrics(tmp_path)
    assert [one.validation for one in again.cut(3)] == [None, 0.5, None]
    again.validated(3, 0.25)
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [(line["step"], line["skipped"], line["validation"]) for line in lines] == [
        (1, 1, None),
        (2, 2, 0.5),
        (3, 3, 0.25),
    ]


def test_lines_that_a_full_disk_refused_follow_later(tmp_path, monkeypatch):
    metrics, real = Metrics(tmp_path), pathlib.Path.open
    metrics.add(point(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "open", full)
    for step in (2, 3):
        with pytest.raises(ACEStepError, match=r"metrics\.jsonl: lines could not be written .*No space.*make room"):
            metrics.add(point(step))
    monkeypatch.setattr(pathlib.Path, "open", real)
    metrics.add(point(4))
    assert Metrics(tmp_path).cut(9) == tuple(map(point, (1, 2, 3, 4)))


def test_a_log_that_cannot_be_cut_says_where_and_what_to_do(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ACEStepError, match=r"metrics\.jsonl: cannot be cut at step 2 .*Make room"):
        Metrics(tmp_path).cut(2)


def test_the_average_starts_at_the_first_loss_and_passes_over_what_is_no_number():
    assert smoothed(None, 3.0, 0) == 3.0
    assert smoothed(3.0, math.inf, 5) == 3.0
    assert smoothed(None, math.nan, 0) is None


def test_the_average_has_no_favourite_at_the_start():
    """Weights 0.98^age that add up to 1: two losses count nearly alike, and after many the oldest is forgotten."""
    losses, average = [9.0, 1.0, 1.5, 0.5, 2.0], None
    for heard, loss in enumerate(losses):
        average = smoothed(average, loss, heard)
        weights = [0.98**age for age in range(heard, -1, -1)]
        expected = sum(share * one for share, one in zip(weights, losses, strict=False)) / sum(weights)
        assert math.isclose(average, expected)
    assert average < 2.9  # without the correction 8.4
