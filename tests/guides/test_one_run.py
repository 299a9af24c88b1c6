"""One run alone trains into a folder."""

from __future__ import annotations

import pytest
import tiny

from guides.builtin import train as builtin
from guides.training import train_guide as learn
from guides.training.train_guide import train_guide
from models.checkpoints.checkpoint import save_model


class Reached(Exception):
    """The work begins, which a refused run never does."""


def test_a_second_training_into_one_folder_is_refused(tmp_path, monkeypatch):
    base = save_model(tmp_path / "base", tiny.model(), tiny.tokenizer())
    arguments = (tmp_path / "traces", {}, base, tmp_path / "out")
    begun = []

    def prepare(*args, **options):
        begun.append(1)
        with pytest.raises(ValueError, match="another run is training into .*out: wait for its"):
            train_guide(*arguments)
        raise Reached

    monkeypatch.setattr(learn, "prepare", prepare)
    for count in (1, 2):  # the lock is gone with the run
        with pytest.raises(Reached):
            train_guide(*arguments)
        assert len(begun) == count
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").touch()
    with pytest.raises(ValueError, match="holds something else"):
        train_guide(*arguments[:3], tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter"]


def test_a_second_training_of_the_built_in_model_is_refused(tmp_path, monkeypatch):
    def stage(*args):
        with pytest.raises(ValueError, match="another run is training into"):
            builtin.train_builtin(out=tmp_path / "out")
        raise Reached

    monkeypatch.setattr(builtin, "_train_stage", stage)
    with pytest.raises(Reached):
        builtin.train_builtin(out=tmp_path / "out")
