"""The event stream of a run whose worker is killed and resumed."""

from __future__ import annotations

from pathlib import Path

from kosmos_dreambooth.training.run.events import Event, EventReader, append_events, loss_curve


def step(number: int, loss: float) -> Event:
    return Event("step", number, loss, 1e-3)


def test_a_reader_returns_each_complete_event_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read_new() == []
    append_events(path, [step(1, 0.5)])
    with path.open("ab") as stream:
        stream.write(b'{"kind": "st')
        stream.flush()
        assert [event.step for event in reader.read_new()] == [1]
        stream.write(b'ep", "step": 2, "loss": 0.4}\n')
    assert [event.loss for event in reader.read_new()] == [0.4]
    assert reader.read_new() == []


def test_the_loss_curve_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, [step(1, 0.1), step(2, 0.2), step(3, 0.3)])
    with path.open("ab") as stream:
        stream.write(b'{"kind": "step", "step": 4, "lo')  # the worker was killed here
    append_events(path, [Event("resumed", 1), step(2, 0.2), step(3, 0.3), step(4, 0.4)])
    assert loss_curve(path) == [0.1, 0.2, 0.3, 0.4]


def test_the_loss_curve_leaves_out_lost_steps(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, [step(1, 0.1), step(2, 0.2), step(3, 0.3), Event("resumed", 1)])
    assert loss_curve(path) == [0.1]


def test_a_reader_from_the_end_skips_earlier_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, [step(1, 0.1)])
    reader = EventReader(path, from_end=True)
    append_events(path, [step(2, 0.2)])
    assert [event.step for event in reader.read_new()] == [2]
