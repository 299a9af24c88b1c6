"""Tiny trainings and what they leave."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
