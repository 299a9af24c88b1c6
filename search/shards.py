"""Shards: Parquet files with one row a trace, list columns for nodes, edges and steps.

They are written with checksums of their pages and read with limits: a shard that was damaged, and
one that others made to fill the memory, is refused before its numbers are looked at.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search.parquet_footer import columns

SCHEMA = 1  #: version of the columns; shards of another are skipped

ARRAYS = {  # list columns of numbers, in numpy's terms
    "node_parent": "int32", "node_edge": "int32", "node_finished": "bool", "node_reward": "float64",
    "edge_node": "int32", "edge_child": "int32", "edge_visits": "int32", "edge_sum": "float64",
    "edge_prior": "float32",
    "edge_value": "float32", "edge_log_prob": "float64",
}  # fmt: skip
TEXTS = (
    "id", "kind", "arguments", "method", "options", "version", "usage", "judge", "error",
    "language", "refused",
)  # fmt: skip
#: list columns, too
STEPS = ("step_text", "step_finish", "step_tokens", "step_thought", "step_log_probs")
COLUMNS = ("schema", "digest", "seed", "independent", *TEXTS, *ARRAYS, *STEPS)
#: columns that shards from before they were kept do not have
LATER = (
    "digest", "independent", "judge", "error", "step_thought", "step_log_probs", "language",
    "refused",
)  # fmt: skip
#: those among them that digests of shards without them leave out
_NEWER = ("step_log_probs", "language", "refused")

#: A file may hold so many bytes, or so many times its own size where that is more: numbers that
#: repeat are packed into next to nothing.
ROOM = 1 << 28
RATIO = 500
# bytes of a value in memory: of numbers as they are, of steps and tokens as Python's objects
_STEP = 400
_TOKEN = 40
_VALUE = 8


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one row a trace: each of `COLUMNS` but its digest by its name."""
    pa = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    schema = _schema(pa)
    columns = []
    for column in schema:
        if column.name == "digest":
            cells = list(map(_digest, rows))
        else:
            cells = [row[column.name] for row in rows]
        columns.append(pa.array(cells, column.type))
    table = pa.table(columns, schema=schema)
    parquet.write_table(table, path, compression="zstd", write_page_checksum=True)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard as they were written; None for a column of `LATER` that is not there.

    Raises ValueError for a shard of another schema, for one with more numbers than a file of its
    size may have, and whatever a damaged file makes the reader raise.
    """
    _check_size(path)
    parquet = importlib.import_module("pyarrow.parquet")
    texts = ["step_text.list.element", "step_finish.list.element"]
    with parquet.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
        names = set(file.schema_arrow.names)
        for group in range(file.num_row_groups):
            yield from _rows(file.read_row_group(group, use_threads=False), names)


def _schema(pa: Any) -> Any:
    types = {
        "int32": pa.int32(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
    }
    fields = [("schema", pa.int32()), ("digest", pa.string())]
    fields += [("seed", pa.int64()), ("independent", pa.bool_())]
    fields += [(name, pa.string()) for name in TEXTS]
    fields += [(name, pa.list_(types[kind])) for name, kind in ARRAYS.items()]
    fields += [
        ("step_text", pa.list_(pa.string())),
        ("step_finish", pa.list_(pa.string())),
        ("step_tokens", pa.list_(pa.list_(pa.int32()))),
        ("step_thought", pa.list_(pa.bool_())),
        ("step_log_probs", pa.list_(pa.list_(pa.float32()))),
    ]
    return pa.schema(fields)


def _check_size(path: Path) -> None:
    """Raises ValueError where the columns are larger than a file of this size may hold."""
    weights = {"step_text": _STEP, "step_tokens": _TOKEN, "step_log_probs": _TOKEN}
    size = path.stat().st_size
    total = 0
    for column in columns(path):
        total += max(column.values * weights.get(column.name, _VALUE), column.size)
    most = max(ROOM, RATIO * size)
    if total > most:
        raise ValueError(
            f"its {size:,} bytes would take {total:,} in memory, and a shard of this size may take "
            f"{most:,}: it is damaged, or made to fill the memory"
        )


def _rows(table: Any, names: set[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table, arrays as numpy's, texts of steps not copied."""
    missing = [name for name in COLUMNS if name not in names and name not in LATER]
    if missing:
        raise ValueError(f"it has no column {missing[0]}, so it is no shard of traces")
    found = {name: table.column(name).combine_chunks() for name in COLUMNS if name in names}
    for row in range(table.num_rows):
        if (schema := found["schema"][row].as_py()) != SCHEMA:
            raise ValueError(f"it has schema {schema}, this version of Copse reads {SCHEMA}")
        cells: dict[str, Any] = dict.fromkeys(LATER)
        for name, column in found.items():
            cells[name] = _cell(name, column, row)
        if cells["digest"] not in (None, _digest(cells)):
            raise ValueError("it is not what was written: a bit has flipped, or it was changed")
        yield cells


def _digest(row: Mapping[str, Any]) -> str:
    """SHA-256 of what a row holds, without columns that its shard does not have. The checksums of
    Parquet leave out what says how a page is to be read.
    """
    digest = hashlib.sha256()
    for name in COLUMNS:
        if name == "digest" or (name in _NEWER and row[name] is None):
            continue
        digest.update(name.encode())
        if name in ARRAYS:
            digest.update(np.asarray(row[name], ARRAYS[name]).tobytes())
        else:
            digest.update(json.dumps(row[name], default=list).encode())
    return digest.hexdigest()


def _cell(name: str, column: Any, row: int) -> Any:
    value = column[row]
    if name in ARRAYS:
        return value.values.to_numpy(zero_copy_only=False).astype(ARRAYS[name])
    if name in ("step_text", "step_finish"):
        return _shared(value.values)
    return value.as_py()


def _shared(encoded: Any) -> list[str]:
    """The texts of a dictionary-encoded array: equal ones are one object, however many. Raises
    ValueError where their lengths together are beyond `ROOM`.
    """
    texts = encoded.dictionary.to_pylist()
    numbers = encoded.indices.to_numpy()
    lengths = np.array(list(map(len, texts)), np.int64)
    if lengths[numbers].sum() > ROOM:
        raise ValueError(f"its steps have more than {ROOM:,} characters")
    return [texts[number] for number in numbers.tolist()]
