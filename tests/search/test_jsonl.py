"""Lines of JSON with a checksum: what is read is what was written."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sweep import rows
from search.files.atomic import lock
from search.files.jsonl import SUM, Damaged, Lines, opened, sealed, strict
from search.files.problems_file import Results
from search.problem import TextProblem
from search.solution import Solution

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ROWS = st.dictionaries(st.text().filter(lambda name: name != SUM), VALUES, max_size=5)


@pytest.mark.thorough
@given(ROWS)
def test_what_is_sealed_comes_back(row: dict) -> None:
    line = sealed(row)
    assert line.endswith("\n") and "\n" not in line[:-1]
    assert opened(strict(line.encode())) == row


@pytest.mark.thorough
@given(ROWS, st.data())
def test_no_flipped_bit_is_read_as_another_value(row: dict, data: st.DataObject) -> None:
    """It is no JSON, or not as it was written, or says the same in other letters, as 1E5 does."""
    line = bytearray(sealed(row).encode())
    place = data.draw(st.integers(0, len(line) - 2))
    line[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = opened(strict(bytes(line)))
    except ValueError:
        return
    if SUM in bytes(line).decode():
        assert read == row
    else:
        assert set(read) != set(row)  # the name of the checksum is another one: no result has it


def test_the_checksum_is_of_the_values() -> None:
    """As anybody can compute it; blanks and the order of names do not count."""
    row = {"id": "a", "votes": 2}
    line = json.loads(sealed(row))
    wanted = format(zlib.crc32(b'{"id": "a", "votes": 2}'), "08x")
    assert line == {**row, SUM: wanted}
    assert opened({SUM: wanted, "votes": 2, "id": "a"}) == row
    with pytest.raises(Damaged):
        opened({**line, "votes": 3})
    with pytest.raises(Damaged):
        opened({**line, SUM: None})
    with pytest.raises(ValueError):
        sealed({"value": float("nan")})


def results_at(path: Path) -> Results:
    results = Results(path)
    for name in ("a", "b"):
        results.write(name, Solution(TextProblem("Why?"), "8", votes=(3, 4), stopped="finished"))
    results.close()
    return results


def test_a_result_with_another_value_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "o"
    written = results_at(path)
    whole = path.read_text()
    again = Results(path)
    again.close()
    assert again.reported == written.reported and path.read_text() == whole
    first, second = whole.splitlines(keepends=True)
    changed = second.replace('"answer": "8"', '"answer": "9"')
    assert changed != second
    path.write_text(first + changed)
    with pytest.raises(ValueError, match=r"line 2 is not as it was written, .*delete the line"):
        Results(path)
    assert path.read_text() == first + changed
    row = json.loads(changed)
    del row[SUM]  # as the sentence says for a line that was changed by hand
    path.write_text(first + json.dumps(row) + "\n")
    by_hand = Results(path)
    by_hand.close()
    assert by_hand.reported["b"].answer == "9" and by_hand.done("b")


def test_lines_of_older_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "o"
    found: list[object] = []
    path.write_text('{"id": "a"}\n{"id": "b"}\n')
    lines = Lines(path, found.append, first="id", what="line", flag="--output")
    lines.append(sealed({"id": "c"}))
    lines.close()
    assert found == [{"id": "a"}, {"id": "b"}]
    found.clear()
    Lines(path, found.append, first="id", what="line", flag="--output").close()
    assert found == [{"id": "a"}, {"id": "b"}, {"id": "c"}]


def test_a_file_that_is_refused_is_let_go(tmp_path: Path) -> None:
    """It is closed and its lock given back, whoever keeps the error."""
    for opens in (Results, rows.Results):
        path = tmp_path / opens.__module__
        path.write_text("nonsense\n")
        with pytest.raises(ValueError) as caught:
            opens(path)
        with path.open("a") as file:
            lock(file, "it is still held")
        assert caught.value is not None
