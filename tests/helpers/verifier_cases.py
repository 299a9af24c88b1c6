"""Traces and labels of which the truth is planted."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
