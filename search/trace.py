"""Traces: finished search trees on disk, the training data of the next guide.

A shard is a Parquet file with one row a trace, list columns for nodes and edges. States are not
stored: applying the steps makes them again. A trace never holds a label.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.problem import Problem, TextStep, build
from search.scheduling.requests import Usage

if TYPE_CHECKING:
    import networkx

    from search.tree.tree import Tree

log = logging.getLogger(__name__)

SCHEMA = 1  #: version of the shard's columns; shards of another are skipped
#: The method whose chains are independent samples, for shards from before `independent` was kept
_SAMPLER = "search.methods.sample:sample"

_COLUMNS = {  # list columns, in numpy's terms
    "node_parent": "int32", "node_edge": "int32", "node_finished": "bool", "node_reward": "float64",
    "edge_node": "int32", "edge_child": "int32", "edge_visits": "int32", "edge_sum": "float64",
    "edge_prior": "float32",
    "edge_value": "float32", "edge_log_prob": "float64",
}  # fmt: skip
FIELDS = ("sum", "prior", "value", "visits", "child")
_TEXTS = ("id", "kind", "arguments", "method", "options", "version", "usage", "judge", "error")


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished tree with where it came from.

    kind, arguments  the problem's class path and JSON arguments;  method, options, seed, version
                     (of the guide), usage
    node_*  [nodes]: parent (-1: root), edge that leads here (-1: root), finished, reward in [0, 1]
            (nan: only the label could tell)
    edge_*  [edges]: node it leaves, child (-1: never taken), visits, sum of values, prior, the
            policy's own value, log-prob (nan unknown)
    steps   one an edge: TextStep with text and tokens; a step of another kind stands as its JSON
            text
    judge   version of the value function alone, for a reward model with its format and aggregation;
            "" in shards from before it was kept
    error   why the search failed, as a whole or in some of its requests; "" where it did not
    independent  whether the chains are independent samples of the policy (`Tree.independent`)
    """

    id: str
    kind: str
    arguments: dict[str, Any]
    method: str
    options: dict[str, Any]
    seed: int
    version: str
    usage: Usage
    node_parent: np.ndarray
    node_edge: np.ndarray
    node_finished: np.ndarray
    node_reward: np.ndarray
    edge_node: np.ndarray
    edge_child: np.ndarray
    edge_visits: np.ndarray
    edge_sum: np.ndarray
    edge_prior: np.ndarray
    edge_value: np.ndarray
    edge_log_prob: np.ndarray
    steps: tuple[TextStep, ...]
    judge: str = ""
    error: str = ""
    independent: bool = False

    @classmethod
    def of(
        cls,
        tree: Tree,
        problem: Problem,
        method: str,
        options: dict[str, Any],
        seed: int,
        version: str,
        usage: Usage,
        judge: str = "",
        error: str = "",
    ) -> Trace:
        """The trace of a tree as it stands; edges in the order of their nodes."""
        nodes = range(len(tree.nodes))
        owners: list[int] = []
        edges: list[int] = []
        for node in nodes:
            block = tree.block(node)
            owners += [node] * len(block)
            edges += block
        number = {edge: i for i, edge in enumerate(edges)}
        leading = [-1] + [number[tree.edge_to(node)] for node in nodes[1:]]
        rewards = [tree.finished.get(node) for node in nodes]
        describe = getattr(problem, "to_json", dict)

        def field(name: str) -> np.ndarray:
            blocks = [tree.field(node, name) for node in nodes if tree.block(node)]
            return np.concatenate(blocks or [np.zeros(0)])

        return cls(
            id=uuid.uuid4().hex,
            kind=f"{type(problem).__module__}:{type(problem).__qualname__}",
            arguments=describe(),
            method=method,
            options=_plain(options),
            seed=seed,
            version=version,
            usage=usage,
            node_parent=np.maximum(tree.nodes["parent"], -1).astype(np.int32),
            node_edge=np.array(leading, np.int32),
            node_finished=np.array([node in tree.finished for node in nodes]),
            node_reward=np.array([math.nan if r is None else r for r in rewards]),
            edge_node=np.array(owners, np.int32),
            edge_child=field("child").astype(np.int32),
            edge_visits=field("visits").astype(np.int32),
            edge_sum=field("sum").astype(np.float64),
            edge_prior=np.abs(field("prior")).astype(np.float32),
            edge_value=(field("value") + np.float32(0)).astype(np.float32),
            edge_log_prob=np.array([tree.log_probs[edge] for edge in edges], np.float64),
            steps=tuple(_text_step(tree.steps[edge]) for edge in edges),
            judge=judge,
            error=error,
            independent=tree.independent,
        )

    def path(self, node: int) -> list[int]:
        """Edges from the root to `node`."""
        edges: list[int] = []
        while self.node_parent[node] >= 0:
            edges.append(int(self.node_edge[node]))
            node = int(self.node_parent[node])
        return edges[::-1]

    def problem(self) -> Problem:
        """The problem again. Imports the module that the trace names: open only traces that you
        trust.
        """
        return build(self.kind, self.arguments)

    def states(self, problem: Problem | None = None) -> list[Any]:
        """The state of every node, made again by applying the steps."""
        problem = problem or self.problem()
        states = [problem.initial()]
        for parent, edge in zip(self.node_parent[1:], self.node_edge[1:], strict=True):
            states.append(problem.apply(states[int(parent)], self.steps[int(edge)]))
        return states

    def to_networkx(self) -> networkx.DiGraph:
        """Directed graph of the tree. Nodes: text, visits, value (mean, nan unvisited),
        finished, reward; edges: text, prior, visits.
        """
        import networkx

        graph = networkx.DiGraph(
            **{**self.arguments, "kind": self.kind, "method": self.method, "seed": self.seed}
        )
        for node, parent in enumerate(self.node_parent):
            edge = int(self.node_edge[node])
            value = math.nan
            if edge < 0:
                text = ""
                visits = int(self.edge_visits[self.edge_node == 0].sum())
            else:
                text = self.steps[edge].text
                visits = int(self.edge_visits[edge])
                if visits:
                    value = float(self.edge_sum[edge] / visits)
                prior = float(self.edge_prior[edge])
                graph.add_edge(int(parent), node, text=text, prior=prior, visits=visits)
            graph.add_node(
                node,
                text=text,
                visits=visits,
                value=value,
                finished=bool(self.node_finished[node]),
                reward=float(self.node_reward[node]),
            )
        return graph

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(Trace))

    # -- shards

    @staticmethod
    def save(traces: Sequence[Trace], path: str | Path) -> Path:
        """Write one shard: into a temporary file beside `path`, renamed when complete. Raises
        OSError (a full disk) and leaves nothing.
        """
        pa = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
        path = Path(path)
        schema = _schema(pa)
        columns = []
        for column in schema:
            cells = [_cell(trace, column.name) for trace in traces]
            columns.append(pa.array(cells, column.type))
        table = pa.table(columns, schema=schema)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            parquet.write_table(table, part, compression="zstd")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    @staticmethod
    def load(path: str | Path) -> list[Trace]:
        """All traces of a shard, or of a folder of shards, each once. What cannot be read is named
        in a warning and skipped.

        Raises FileNotFoundError where there is nothing at `path`.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(
                f"there are no traces at {path}: give a folder that `copse solve --traces` wrote"
            )
        traces: dict[str, Trace] = {}
        for shard in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
            try:
                for trace in _read(shard):
                    traces.setdefault(trace.id, trace)
            except Exception as error:  # a damaged file makes the reader raise anything
                reason = str(error).splitlines() or [type(error).__name__]
                log.warning("skipped the trace shard %s: %s", shard, reason[0])
        return list(traces.values())


class TraceWriter:
    """Writes traces as searches end, each to a file of its own so that a killed run loses none;
    `close` merges them into one shard.

    A write that fails (a full disk) is kept in `error`, and the search goes on.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.error: OSError | None = None
        self._parts: list[Path] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, trace: Trace) -> None:
        if self.error is not None:
            return
        try:
            self._parts.append(Trace.save([trace], self.folder / f"{trace.id}.parquet"))
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Merge what was written; until the merged shard is in place, the single files stay."""
        if len(self._parts) < 2 or self.error is not None:
            return
        try:
            merged = list(itertools.chain.from_iterable(map(_read, self._parts)))
            Trace.save(merged, self.folder / f"shard-{uuid.uuid4().hex}.parquet")
        except OSError as error:
            self.error = error
            return
        for part in self._parts:
            part.unlink(missing_ok=True)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options that JSON can hold."""
    kinds = (int, float, str, bool, type(None))
    return {name: value for name, value in options.items() if isinstance(value, kinds)}


def _text_step(step: Any) -> TextStep:
    return step if isinstance(step, TextStep) else TextStep(json.dumps(step, default=str))


def _schema(pa: Any) -> Any:
    types = {
        "int32": pa.int32(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
    }
    columns = [("schema", pa.int32()), ("seed", pa.int64()), ("independent", pa.bool_())]
    columns += [(name, pa.string()) for name in _TEXTS]
    columns += [(name, pa.list_(types[kind])) for name, kind in _COLUMNS.items()]
    columns += [
        ("step_text", pa.list_(pa.string())),
        ("step_finish", pa.list_(pa.string())),
        ("step_tokens", pa.list_(pa.list_(pa.int32()))),
        ("step_thought", pa.list_(pa.bool_())),
    ]
    return pa.schema(columns)


def _cell(trace: Trace, name: str) -> Any:
    if name == "schema":
        return SCHEMA
    if name.startswith("step_"):
        return [getattr(step, name[5:]) for step in trace.steps]
    value = getattr(trace, name)
    if name == "usage":
        return json.dumps(asdict(value))
    return json.dumps(value) if isinstance(value, dict) else value


def _read(shard: Path) -> list[Trace]:
    parquet = importlib.import_module("pyarrow.parquet")
    rows = parquet.read_table(shard).to_pylist()
    traces = []
    for row in rows:
        if row.get("schema") != SCHEMA:
            raise ValueError(
                f"it has schema {row.get('schema')}, this version of Copse reads {SCHEMA}"
            )
        # none in shards from before they were kept
        thoughts = row.get("step_thought") or [False] * len(row["step_text"])
        steps = zip(row["step_text"], row["step_tokens"], row["step_finish"], thoughts, strict=True)
        cells = {name: np.array(row[name], kind) for name, kind in _COLUMNS.items()}
        independent = row.get("independent")
        if independent is None:
            independent = row["method"] == _SAMPLER
        traces.append(
            Trace(
                **cells,
                id=row["id"],
                kind=row["kind"],
                method=row["method"],
                version=row["version"],
                seed=row["seed"],
                arguments=json.loads(row["arguments"]),
                options=json.loads(row["options"]),
                usage=Usage(**json.loads(row["usage"])),
                steps=tuple(TextStep(text, tuple(tokens), *rest) for text, tokens, *rest in steps),
                judge=row.get("judge") or "",
                error=row.get("error") or "",
                independent=independent,
            )
        )
    return traces


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return bool(a == b)
