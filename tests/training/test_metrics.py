"""metrics.jsonl: appended line by line, and cut where a run goes on."""

from __future__ import annotations

import math

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


def test_the_average_starts_at_the_first_loss_and_passes_over_what_is_no_number():
    assert smoothed(None, 3.0) == 3.0
    assert math.isclose(smoothed(3.0, 1.0), 0.98 * 3 + 0.02)
    assert smoothed(3.0, math.inf) == 3.0
    assert smoothed(None, math.nan) is None
