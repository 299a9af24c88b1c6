"""What crosses the border of the sandbox as bytes, and what is shown inside."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.sandbox import bubblewrap
from search.sandbox.functions import SandboxedFunction
from search.sandbox.inside import messages
from search.sandbox.process import memory_of
from search.sandbox.programs import read_reply

TEXTS = st.text(st.characters(exclude_categories=()))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@pytest.mark.thorough
@given(PLAIN)
def test_what_is_packed_is_unpacked(thing: object) -> None:
    again = messages.unpack(messages.pack(thing))
    assert repr(again) == repr(thing)  # nan, -0.0 and True stay what they are


@pytest.mark.thorough
@given(PLAIN, st.binary(max_size=8), st.data())
def test_other_bytes_are_a_value_or_refused(
    thing: object, noise: bytes, data: st.DataObject
) -> None:
    packed = messages.pack(thing)
    place = data.draw(st.integers(0, len(packed)))
    for spoilt in (packed[:place], packed[:place] + noise + packed[place + len(noise) :]):
        try:
            again = messages.unpack(spoilt)
        except ValueError:
            continue
        assert (
            messages.unpack(messages.pack(again)) == again or again != again or "nan" in str(again)
        )


def test_depth_and_promised_lengths_are_refused() -> None:
    for spoilt in (b"L\x01\0\0\0" * 10**5, b"L\xff\xff\xff\xff", b"S\xff\xff\xff\xffx", b"", b"Z"):
        with pytest.raises(ValueError):
            messages.unpack(spoilt)


@given(st.dictionaries(TEXTS, TEXTS))
def test_a_reply_is_json(reply: dict[str, str]) -> None:
    data = messages.json_of(reply)
    assert data.isascii()
    assert read_reply(data) == json.loads(data) == _joined(reply)


def _joined(reply: dict[str, str]) -> dict[str, str]:
    """Two halves of a surrogate pair beside one another are one character in JSON."""

    def join(text: str) -> str:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    return {join(key): join(text) for key, text in reply.items()}


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"[]", b'{"result": 1}', b'{"a": ["b"]}', b"[" * 60000, b"\xff", b"1" * 9999],
)
def test_a_reply_that_is_none_says_nothing(data: bytes) -> None:
    assert read_reply(data) == {}


def test_of_paths_the_outermost_are_shown_and_never_the_root(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "ab").touch()
    a, b, ab = (str(tmp_path / name) for name in ("a", "a/b", "ab"))
    paths = ["/", b, a, ab, "/usr/lib", "/usr", str(tmp_path / "none"), a + "/"]
    assert bubblewrap.outermost(paths) == [a, ab]


def test_a_verifier_sees_modules_and_not_the_folders_they_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lonely.py").write_text(
        "import os\ndef look(text):\n    return len(os.listdir(text))"
    )
    (tmp_path / ".env").write_text("KEY=open sesame")
    monkeypatch.syspath_prepend(str(tmp_path))
    import lonely  # type: ignore[import-not-found]

    assert str(tmp_path / "lonely.py") in bubblewrap.modules_in_use(bubblewrap.installation())
    monkeypatch.delitem(sys.modules, "lonely")
    assert str(tmp_path / "lonely.py") not in bubblewrap.modules_in_use(())
    monkeypatch.setitem(sys.modules, "lonely", lonely)
    from sandbox_cases import need_a_sandbox

    need_a_sandbox()
    look = SandboxedFunction(lonely.look, "look", 60.0, True)
    assert look(str(tmp_path)) == 1.0


def test_root_becomes_a_user_that_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bubblewrap.private_user() is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if sys.platform.startswith("linux"):
        found = {bubblewrap.private_user() for _ in range(9)}
        assert found == {None} or (len(found) > 1 and min(found) > 60000)


def test_memory_of_all_descendants_counts() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    alone = memory_of(os.getpid())
    assert alone > 10 << 20
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    both = memory_of(os.getpid())
    os.write(write, b"x")
    os.waitpid(pid, 0)
    assert both > alone
    assert memory_of(pid) == 0
