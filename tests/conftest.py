"""Makes the pack importable as `kosmos_dreambooth` in every test."""

from __future__ import annotations

from as_package import load

load("errors")
