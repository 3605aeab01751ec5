"""The event stream survives what happens to a worker."""

from __future__ import annotations

from pathlib import Path

from kosmos_dreambooth.training.run.events import Event, EventReader, append_events, loss_curve


def step(number: int, loss: float) -> Event:
    return Event("step", number, loss, 1e-3)


def test_a_follower_sees_each_event_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower = EventReader(path)
    assert follower.read_new() == []
    append_events(path, [step(1, 0.5)])
    with path.open("ab") as stream:
        stream.write(b'{"kind": "st')
        stream.flush()
        assert [event.step for event in follower.read_new()] == [1]
        stream.write(b'ep", "step": 2, "loss": 0.4}\n')
    assert [event.loss for event in follower.read_new()] == [0.4]
    assert follower.read_new() == []


def test_the_loss_curve_of_a_resumed_run_has_neither_gap_nor_double(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, [step(1, 0.1), step(2, 0.2), step(3, 0.3)])
    with path.open("ab") as stream:
        stream.write(b'{"kind": "step", "step": 4, "lo')  # the worker was killed here
    append_events(path, [Event("resumed", 1), step(2, 0.2), step(3, 0.3), step(4, 0.4)])
    assert loss_curve(path) == [0.1, 0.2, 0.3, 0.4]


def test_a_run_that_lost_steps_does_not_show_them(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, [step(1, 0.1), step(2, 0.2), step(3, 0.3), Event("resumed", 1)])
    assert loss_curve(path) == [0.1]


def test_a_follower_from_the_end_sees_nothing_old(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, [step(1, 0.1)])
    follower = EventReader(path, from_end=True)
    append_events(path, [step(2, 0.2)])
    assert [event.step for event in follower.read_new()] == [2]
