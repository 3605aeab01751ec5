"""Runs that an earlier version stopped at step 3 resume to the same losses and results.

`fixtures/<kind>/run` is such a run, of 6 steps on the sandbox, in a pack folder that is gone;
`expected.json` has the losses of steps 4 to 6 and the result as the earlier version computed them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over several threads have other rounding errors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", sorted(path.name for path in FIXTURES.iterdir()))
def test_a_run_of_an_earlier_version_resumes(kind: str, tmp_path: Path) -> None:
    expected = json.loads((FIXTURES / kind / "expected.json").read_text(encoding="utf-8"))
    run = RunFolder(Path(shutil.copytree(FIXTURES / kind / "run", tmp_path / "run")))
    assert train(run, StopRequest())
    losses = loss_curve(run.events)[-3:]
    result = load_file(run.path / expected["result"])
    norms = {key: float(tensor.double().norm()) for key, tensor in result.items()}
    assert losses == pytest.approx(expected["losses"], rel=1e-3)
    assert norms == pytest.approx(expected["norms"], rel=1e-3, abs=1e-6)
    if expected["environment"] == {"cpu": cpu(), "torch": torch.__version__}:
        assert losses == expected["losses"]
        assert hash_tensors(result) == expected["sha256"]


def cpu() -> str:
    """The processor's name, on Linux."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    hashes = (hashlib.sha256(tensors[key].numpy().tobytes()).hexdigest() for key in sorted(tensors))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
