"""All training of the weights in git: `weights/training.json`, which the model card shows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ...sandbox import WEIGHTS

FILE = WEIGHTS / "training.json"


@dataclass(frozen=True)
class TrainingRecord:
    """All training of one model so far; `seed` is that of its last run."""

    steps: int = 0
    samples: int = 0
    minutes: float = 0.0
    seed: int = 0


def load_record() -> dict[str, TrainingRecord]:
    """Return each model's record by its name."""
    if not FILE.exists():
        return {}
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: TrainingRecord(**values) for name, values in entries.items()}


def add_to_record(
    name: str, steps: int, batch: int, minutes: float, seed: int, *, restart: bool = False
) -> None:
    """Add a finished run; with `restart` the model was trained from scratch."""
    records = load_record()
    before = TrainingRecord() if restart else records.get(name, TrainingRecord())
    records[name] = TrainingRecord(
        before.steps + steps, before.samples + steps * batch, before.minutes + minutes, seed
    )
    values = {key: asdict(record) for key, record in sorted(records.items())}
    FILE.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
