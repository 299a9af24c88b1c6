"""Code in the folder of a checkpoint is never run, and nobody is asked whether it may be."""

from __future__ import annotations

import ast
import builtins
import json
from pathlib import Path

import pytest
import tiny

import guides
from guides.data.trace_tokens import TraceReader
from models.checkpoints.checkpoint import load_model, save_model
from models.server.client import _tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
CLASSES = "class C:\n    pass\nclass T:\n    pass\nclass M:\n    pass\n"
READERS = {
    "guides.load": guides.load,
    "guides.PRM": guides.PRM,
    "an engine's model": lambda folder: load_model(folder, trainable=False),
    "a model to train": load_model,
    "traces": lambda folder: TraceReader(folder, {}),
    "a server's tokenizer": _tokenizer,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint whose config and tokenizer name code of its own."""

    def asked(*args):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(builtins, "input", asked)
    made = save_model(tmp_path / "m", tiny.model(), tiny.tokenizer(), tiny.head())
    (made / "theirs.py").write_text(CODE + CLASSES)
    return made


def named(folder, file, **names):
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | names))


def ran(folder) -> bool:
    return any(folder.rglob("*.ran")) or any((Path.home() / ".cache").rglob("theirs.ran"))


@pytest.mark.thorough
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_a_known_type_is_read_by_the_code_that_is_installed(folder, read):
    named(folder, "config.json", auto_map={"AutoConfig": "theirs.C", "AutoModel": "theirs.M"})
    named(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "theirs.T"]})
    read(folder)
    assert not ran(folder)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_an_unknown_type_is_refused_in_a_sentence(folder, read):
    named(
        folder, "config.json", model_type="theirs", architectures=["M"],
        auto_map={"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"},
    )  # fmt: skip
    named(
        folder, "tokenizer_config.json", tokenizer_class="T",
        auto_map={"AutoTokenizer": [None, "theirs.T"]},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"never run|cannot be loaded"):
        read(folder)
    assert not ran(folder)


@pytest.mark.thorough
def test_nothing_else_reads_the_folders_of_others():
    """Only `models.checkpoints.foreign` has transformers read a folder."""
    # these read data alone
    allowed = {"GenerationConfig", "PeftModel", "maker"}
    found = []
    for package in ("search", "models", "guides"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Attribute) or node.attr != "from_pretrained":
                    continue
                if ast.unparse(node.value) not in allowed:
                    found.append(f"{path.name}:{node.lineno}")
    assert not found, f"use models.checkpoints.foreign.read_by: {found}"


def test_pickled_weights_are_refused(tmp_path):
    made = save_model(tmp_path / "m", tiny.model(), tiny.tokenizer())
    (made / "model.safetensors").rename(made / "pytorch_model.bin")
    for read in (guides.load, load_model, guides.settings):
        with pytest.raises(ValueError, match="a pickle .* not read: give a checkpoint with"):
            read(made)
