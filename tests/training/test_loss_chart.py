"""A run in few numbers: what is drawn is what happened."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.training.run.events import Event
from kosmos_dreambooth.training.run.loss_chart import POINTS, LossChart


def steps(first: int, last: int, start: float = 0.0) -> list[Event]:
    return [
        Event("step", k, loss=k / 10, rate=1e-3, time=start + k / 2) for k in range(first, last + 1)
    ]


def test_a_short_run_is_drawn_step_by_step_with_its_speed_and_what_is_left() -> None:
    chart = LossChart(10)
    chart.add([Event("phase", text="training"), *steps(1, 4)])
    shown = chart.to_json()
    assert shown["loss"] == [[1, 0.1], [2, 0.2], [3, 0.3], [4, 0.4]]
    assert (shown["step"], shown["speed"], shown["seconds_left"]) == (4, 2.0, 3.0)


def test_a_long_run_is_drawn_with_few_points_that_are_means() -> None:
    chart = LossChart(10 * POINTS)
    chart.add(steps(1, 25))
    assert chart.to_json()["loss"] == [
        [10, pytest.approx(0.55)],
        [20, pytest.approx(1.55)],
        [25, pytest.approx(2.3)],
    ]


def test_a_run_that_was_killed_and_goes_on_shows_no_step_twice() -> None:
    chart = LossChart(10)
    resumed = [Event("resumed", 2), Event("phase", 2, text="training")]
    chart.add([*steps(1, 5), *resumed])
    assert chart.to_json()["loss"] == [[1, 0.1], [2, 0.2]]
    chart.add(steps(3, 4, start=100.0))
    shown = chart.to_json()
    assert [step for step, _ in shown["loss"]] == [1, 2, 3, 4]
    assert shown["speed"] == 2.0  # the time between the two sessions does not count


def test_the_newest_picture_and_the_end_are_told() -> None:
    chart = LossChart(2)
    chart.add([*steps(1, 2), Event("preview", 2, file="previews/2.png"), Event("finished", 2)])
    shown = chart.to_json()
    assert (shown["state"], shown["sample"], shown["sample_step"]) == (
        "finished",
        "previews/2.png",
        2,
    )
