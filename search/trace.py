"""Traces: finished search trees on disk, the training data of the next guide.

A shard is a Parquet file with one row a trace, list columns for nodes and edges. States are not
stored: applying the steps makes them again. A trace never holds a label.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search import shards
from search.chain import GIVEN
from search.files.atomic import atomic
from search.kinds import build, kind_of
from search.problem import Problem, TextStep
from search.scheduling.requests import Usage
from search.shards import ARRAYS

if TYPE_CHECKING:
    import networkx

    from search.tree.tree import Tree

log = logging.getLogger(f"copse.{__name__}")

#: The method whose chains are independent samples, for shards from before `independent` was kept
_SAMPLER = "search.methods.sample:sample"
FINISHES = ("stop", "last", "end", "length", GIVEN)  #: of a `TextStep`


class Refused(NamedTuple):
    """An illegal step that was sampled behind a node, and how often."""

    node: int
    times: int
    step: TextStep


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
    refused   illegal steps of samples, which are no edges, in the order of their nodes; () in
              shards from before they were kept
    language  how the policy was told to ask its model (`search.Policy.language`), beside what the
            model says of itself; {} in shards from before it was kept
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
    language: dict[str, Any] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()

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
            kind=kind_of(problem),
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
            refused=_refused(tree),
        )

    def path(self, node: int) -> list[int]:
        """Edges from the root to `node`."""
        edges: list[int] = []
        while self.node_parent[node] >= 0:
            edges.append(int(self.node_edge[node]))
            node = int(self.node_parent[node])
        return edges[::-1]

    def problem(self) -> Problem:
        """The problem again. Raises ValueError for a kind that is not there
        (`search.kinds.build`).
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

        graph = networkx.DiGraph()
        graph.graph.update(self.arguments, kind=self.kind, method=self.method, seed=self.seed)
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

    def check(self) -> None:
        """Raises ValueError where this is no tree: for a trace that others have made.

        Nodes stand behind their parents, so that nothing goes round in a circle; edges and nodes
        name each other; numbers are in their ranges.
        """
        nodes = len(self.node_parent)
        edges = len(self.edge_node)
        for name, kind in ARRAYS.items():
            array = getattr(self, name)
            wanted = nodes if name.startswith("node_") else edges
            _require(array.shape == (wanted,), f"{name} has {len(array)} entries, not {wanted}")
            if kind.startswith("int"):
                _require((array >= -1).all(), f"{name} has numbers below -1")
        _require(nodes > 0, "it has no nodes")
        _require(len(self.steps) == edges, f"it has {len(self.steps)} steps for {edges} edges")
        parents = self.node_parent[1:]
        leading = self.node_edge[1:]
        later = np.arange(1, nodes)
        root = self.node_parent[0] == -1 and self.node_edge[0] == -1
        _require(root, "its first node is no root")
        _require((parents >= 0).all() and (parents < later).all(), "a node is before its parent")
        _require((leading >= 0).all() and (leading < edges).all(), "a node's edge is not there")
        owners = self.edge_node
        _require((owners >= 0).all() and (owners < nodes).all(), "the node of an edge is not there")
        matched = (owners[leading] == parents).all() and (self.edge_child[leading] == later).all()
        taken = np.count_nonzero(self.edge_child >= 0)
        _require(matched and taken == nodes - 1, "edges and nodes do not name each other")
        _require((self.edge_visits >= 0).all(), "visits are below 0")
        for name in ("node_reward", "edge_prior", "edge_value"):
            array = getattr(self, name)
            known = array[~np.isnan(array)]
            _require(((known >= 0) & (known <= 1)).all(), f"{name} is not in [0, 1]")
        for step in self.steps:
            _check_step(step)
        for name in ("id", "kind", "method", "version", "judge", "error"):
            _require(isinstance(getattr(self, name), str), f"its {name} is no text")
        _require("/" not in self.id, "its id is a path")
        _require(isinstance(self.arguments, dict), "the arguments of its problem are no object")
        _require(isinstance(self.options, dict), "the options of its method are no object")
        _require(isinstance(self.language, dict), "how its model was asked is no object")
        for one in self.refused:
            _require(0 <= one.node < nodes and one.times > 0, "a refused step is nowhere")
            _check_step(one.step)
        for amount in astuple(self.usage):
            number = type(amount) in (int, float) and 0 <= amount < math.inf
            _require(number, f"it has spent {amount!r}")

    # -- shards

    @staticmethod
    def save(traces: Sequence[Trace], path: str | Path) -> Path:
        """Write one shard: into a temporary file beside `path`, renamed when complete. Raises
        OSError (a full disk) and leaves nothing.
        """
        with atomic(Path(path)) as part:
            shards.write([_row(trace) for trace in traces], part)
        return Path(path)

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
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._parts: list[Path] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, trace: Trace) -> None:
        """Store a trace: it is on its way to the disk when this returns. Raises OSError (a full
        disk).
        """
        self._parts.append(Trace.save([trace], self.folder / f"{trace.id}.parquet"))

    def close(self) -> None:
        """Merge what was written. Where that cannot be (a full disk), the single files stay, in
        which nothing is missing.
        """
        if len(self._parts) < 2:
            return
        try:
            merged = list(itertools.chain.from_iterable(map(_read, self._parts)))
            Trace.save(merged, self.folder / f"shard-{uuid.uuid4().hex}.parquet")
        except (OSError, ValueError) as error:
            log.info("%d traces stay in files of their own: %s", len(self._parts), error)
            return
        for part in self._parts:
            part.unlink(missing_ok=True)


def _refused(tree: Tree) -> tuple[Refused, ...]:
    found = []
    for node, steps in sorted(tree.refused.items()):
        for step, times in steps.items():
            found.append(Refused(node, times, step))
    return tuple(found)


def _check_step(step: TextStep) -> None:
    _require(step.finish in FINISHES, f"a step ends with {step.finish!r}")
    _require(min(step.tokens, default=0) >= 0, "a token is below 0")
    _require(isinstance(step.text, str), "a step has no text")
    known = len(step.log_probs)
    _require(known in (0, len(step.tokens)), f"a step has {known} log-probs")
    _require(max(step.log_probs, default=0) <= 0, "a token's log-prob is above 0")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options that JSON can hold."""
    kinds = (int, float, str, bool, type(None))
    return {name: value for name, value in options.items() if isinstance(value, kinds)}


def _text_step(step: Any) -> TextStep:
    return step if isinstance(step, TextStep) else TextStep(json.dumps(step, default=str))


def _row(trace: Trace) -> dict[str, Any]:
    """A trace as `search.shards` takes it."""
    row: dict[str, Any] = {name: getattr(trace, name) for name in (*shards.TEXTS, *ARRAYS)}
    for name in ("arguments", "options", "language"):
        row[name] = json.dumps(row[name])
    row["usage"] = json.dumps(asdict(trace.usage))
    row["refused"] = json.dumps([[one.node, one.times, asdict(one.step)] for one in trace.refused])
    for name in shards.STEPS:
        row[name] = [getattr(step, name.removeprefix("step_")) for step in trace.steps]
    # as they come back from the file, so that the digest is of what is read
    row["step_log_probs"] = [np.float32(known).tolist() for known in row["step_log_probs"]]
    return {
        "schema": shards.SCHEMA, "seed": trace.seed, "independent": trace.independent, **row
    }  # fmt: skip


def _read(shard: Path) -> list[Trace]:
    """The traces of a shard, checked. Raises ValueError, and what a damaged file makes the reader
    raise.
    """
    traces = list(map(_trace, shards.read(shard)))
    for trace in traces:
        trace.check()
    return traces


def _trace(row: dict[str, Any]) -> Trace:
    """A trace from a row of `search.shards`."""
    # none in shards from before they were kept
    count = len(row["step_text"])
    thoughts = row["step_thought"] or [False] * count
    log_probs = row["step_log_probs"] or [()] * count
    columns = (row["step_text"], row["step_tokens"], row["step_finish"], thoughts, log_probs)
    steps = []
    for text, tokens, finish, thought, known in zip(*columns, strict=True):
        steps.append(TextStep(text, tuple(tokens), finish, thought, tuple(known)))
    independent = row["independent"]
    if independent is None:
        independent = row["method"] == _SAMPLER
    return Trace(
        **{name: row[name] for name in ARRAYS},
        id=row["id"],
        kind=row["kind"],
        method=row["method"],
        version=row["version"],
        seed=row["seed"],
        arguments=json.loads(row["arguments"]),
        options=json.loads(row["options"]),
        usage=Usage(**json.loads(row["usage"])),
        steps=tuple(steps),
        judge=row["judge"] or "",
        error=row["error"] or "",
        independent=independent,
        language=json.loads(row["language"] or "{}"),
        refused=tuple(map(_read_refused, json.loads(row["refused"] or "[]"))),
    )


def _read_refused(row: Any) -> Refused:
    """Raises ValueError for what is none, which JSON may well hold."""
    try:
        node, times, step = row
        tokens = tuple(map(index, step["tokens"]))
        known = tuple(map(float, step["log_probs"]))
        read = TextStep(step["text"], tokens, step["finish"], bool(step["thought"]), known)
        return Refused(index(node), index(times), read)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a refused step is none: {error!r}") from None


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(f"it is no tree of a search: {what}")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return bool(a == b)
