"""Weights that were written are those that are read: a flipped bit is found, whichever it is."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import tiny

from models.boardnet import BoardNet
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import load_model, save_model, version
from models.checkpoints.digests import SUMS


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "saved"
    settings = {"format": 1, "value_head": True}
    return save_model(folder, tiny.model(), tiny.tokenizer(), tiny.head(), settings)


def flipped(file, place):
    """One bit of a file, changed."""
    content = bytearray(file.read_bytes())
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


@pytest.fixture
def copied(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_versions", {})
    return shutil.copytree(saved, tmp_path / "m")


@pytest.mark.parametrize("name", ["model.safetensors", "value_head.safetensors"])
@pytest.mark.parametrize("trainable", [True, False])
def test_no_bit_of_the_weights_flips_unseen(copied, name, trainable):
    size = 8 * (copied / name).stat().st_size
    for place in np.random.default_rng(1).choice(size, 5, replace=False).tolist():
        flipped(copied / name, place)
        with pytest.raises(ValueError, match=f"{name} is not what was written"):
            load_model(copied, trainable=trainable)
        flipped(copied / name, place)
    load_model(copied, trainable=trainable)


def test_weights_that_are_gone_and_sums_that_are_none(copied):
    (copied / SUMS).write_text("nothing\n")
    with pytest.raises(ValueError, match="is damaged"):
        version(copied)
    (copied / SUMS).write_text("0" * 64 + "  model-2.safetensors\n")
    with pytest.raises(ValueError, match=r"has no model-2\.safetensors"):
        version(copied)
    (copied / SUMS).unlink()  # as a checkpoint of others
    version(copied)


def test_the_version_does_not_depend_on_the_sums(saved, copied):
    (copied / SUMS).unlink()
    assert version(copied) == version(saved)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_them(saved):
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=saved, capture_output=True, text=True)
    assert done.stdout == "model.safetensors: OK\nvalue_head.safetensors: OK\n"


def test_a_board_network_too(tmp_path):
    folder = BoardNet((2, 3, 3), 9, 8, 1, seed=0).save(tmp_path / "net")
    file = folder / "boardnet.safetensors"
    for place in (8 * file.stat().st_size - 7, 8 * file.stat().st_size // 2):
        flipped(file, place)
        with pytest.raises(ValueError, match="is not what was written"):
            BoardNet.load(folder)
        flipped(file, place)
    BoardNet.load(folder)
