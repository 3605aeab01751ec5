"""The loss curve and progress that the training panel shows."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.training.run.events import Event
from kosmos_dreambooth.training.run.loss_chart import POINTS, LossChart


def steps(first: int, last: int, start: float = 0.0) -> list[Event]:
    return [
        Event("step", k, loss=k / 10, rate=1e-3, time=start + k / 2) for k in range(first, last + 1)
    ]


def test_a_short_run_has_a_point_per_step_speed_and_time_left() -> None:
    chart = LossChart(10)
    chart.add([Event("phase", text="training"), *steps(1, 4)])
    progress = chart.to_json()
    assert progress["loss"] == [[1, 0.1], [2, 0.2], [3, 0.3], [4, 0.4]]
    assert (progress["step"], progress["speed"], progress["seconds_left"]) == (4, 2.0, 3.0)


def test_the_points_of_a_long_run_are_means_of_several_steps() -> None:
    chart = LossChart(10 * POINTS)
    chart.add(steps(1, 25))
    assert chart.to_json()["loss"] == [
        [10, pytest.approx(0.55)],
        [20, pytest.approx(1.55)],
        [25, pytest.approx(2.3)],
    ]


def test_a_resumed_run_has_each_step_once() -> None:
    chart = LossChart(10)
    resumed = [Event("resumed", 2), Event("phase", 2, text="training")]
    chart.add([*steps(1, 5), *resumed])
    assert chart.to_json()["loss"] == [[1, 0.1], [2, 0.2]]
    chart.add(steps(3, 4, start=100.0))
    progress = chart.to_json()
    assert [step for step, _ in progress["loss"]] == [1, 2, 3, 4]
    assert progress["speed"] == 2.0  # the time between the two sessions does not count


def test_the_newest_preview_and_the_final_state() -> None:
    chart = LossChart(2)
    chart.add([*steps(1, 2), Event("preview", 2, file="previews/2.png"), Event("finished", 2)])
    progress = chart.to_json()
    assert (progress["state"], progress["sample"], progress["sample_step"]) == (
        "finished",
        "previews/2.png",
        2,
    )
