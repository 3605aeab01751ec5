"""What went into the weights: `weights/training.json`, which the model card shows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ...sandbox import WEIGHTS

FILE = WEIGHTS / "training.json"


@dataclass(frozen=True)
class Effort:
    """All training of one model so far; ``seed`` is that of its last run."""

    steps: int = 0
    samples: int = 0
    minutes: float = 0.0
    seed: int = 0


def efforts() -> dict[str, Effort]:
    """What is on record, by the model's name."""
    if not FILE.exists():
        return {}
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Effort(**values) for name, values in kept.items()}


def record(
    name: str, steps: int, batch: int, minutes: float, seed: int, *, anew: bool = False
) -> None:
    """Add a finished run of ``steps`` batches to the record; ``anew`` forgets what was before."""
    known = efforts()
    before = Effort() if anew else known.get(name, Effort())
    known[name] = Effort(
        before.steps + steps,
        before.samples + steps * batch,
        before.minutes + minutes,
        seed,
    )
    values = {key: asdict(effort) for key, effort in sorted(known.items())}
    FILE.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
