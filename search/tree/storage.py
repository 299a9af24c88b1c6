"""The arena: the records of nodes and edges of any number of trees, growing on demand. See
`search.tree.descent_kernels` for their layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from search.tree.descent_kernels import EDGE_BYTES, HERE, MOST_EDGES, NODE, SECOND, STALE, UNKNOWN
from search.tree.selection import Rule
from search.tree.subtree_kernels import gather

#: An edge as a record, as `Arena.edges` gives it
EDGE = np.dtype(
    [("sum", "f8"), ("prior", "f4"), ("value", "f4"), ("visits", "i4"), ("child", "i4")]
)
#: Four edges as they stand in `words`
GROUP = np.dtype(
    [
        ("sum", "f8", 4),
        ("prior", "f4", 4),
        ("value", "f4", 4),
        ("visits", "i4", 4),
        ("child", "i4", 4),
    ]
)
assert EDGE.itemsize == EDGE_BYTES and GROUP.itemsize == 4 * EDGE_BYTES
_LIMIT = 2**31 - 2**20


class Arena:
    """Arrays of nodes and edges, and the kernels of a rule bound to them.

    nodes  room for this many is reserved;  edges: the same
    notes  whether the rule needs to know a number of each node (`search.tree.descent_kernels`)
    """

    def __init__(
        self,
        rule: Rule,
        players: int = 1,
        discount: float = 1.0,
        nodes: int = 16,
        edges: int = 64,
        notes: bool = False,
    ):
        if players not in (1, 2):
            raise ValueError(f"players={players}: games of one or two players can be searched")
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount={discount} must lie in (0, 1]")
        self.players = players
        self.discount = discount
        self.keeps_notes = notes or rule.notes
        self._nodes = _vacant(max(nodes, 16), NODE)
        self._words = _vacant(3 * max(edges, 64), np.dtype(np.float64))
        self._notes = np.zeros(len(self._nodes) if self.keeps_notes else 1, np.float32)
        self._sizes = np.zeros(2, np.int64)
        self.rule = rule
        self._widen = 0.0
        self.kernels = rule.kernels
        self._params = rule.array(players, discount)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the arrays as far as they are in use, and no kernels,
        which are compiled for one process.
        """
        state = {**vars(self), **self.snapshot()}
        for name in ("nodes", "words", "notes", "sizes"):
            state[f"_{name}"] = state.pop(name)
        del state["kernels"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # begins with a cache line, as the kernels expect
        self._nodes = _larger(self._nodes, len(self._nodes), 0)
        self._words = _larger(self._words, len(self._words), 0)
        self._fit_notes()
        self.kernels = self.rule.kernels

    # -- what is in use

    @property
    def nodes(self) -> np.ndarray:
        """NODE [nodes in use], a view."""
        return self._nodes[: self._sizes[0]]

    @property
    def edges(self) -> np.ndarray:
        """EDGE [edges in use], a copy. Gaps between blocks, and in a `Forest` what was never
        looked at, are zero.
        """
        table = np.zeros(int(self._sizes[1]), EDGE)
        for node in range(int(self._sizes[0])):
            first = int(self._nodes[node]["first"])
            count = int(self._nodes[node]["count"])
            if count:
                block = table[first : first + count]
                for name in EDGE.names or ():
                    block[name] = self.field(node, name)
                block["prior"] = np.abs(block["prior"])
            if self._nodes[node]["parent"] < 0:
                for name in EDGE.names or ():
                    table[name][-2 - int(self._nodes[node]["parent"])] = self.own(node, name)
        return table

    @property
    def bytes(self) -> int:
        """Of all arrays, room not in use included."""
        return self._nodes.nbytes + self._words.nbytes + self._notes.nbytes

    def field(self, node: int, name: str) -> np.ndarray:
        """A copy of one field of the edges of `node` that are looked at, [count]: sum, prior,
        value, visits or child.
        """
        record = self._nodes[node]
        return self._get(np.arange(int(record["count"])) + int(record["first"]), name)

    def edge_to(self, node: int) -> int:
        """The edge that leads to `node`; a root's own."""
        parent = int(self._nodes[node]["parent"])
        if parent < 0:
            return -2 - parent
        return int(self._nodes[parent]["first"]) + int(self._nodes[node]["place"])

    def own(self, node: int, name: str) -> Any:
        """The same of the edge that leads to `node`."""
        return self._get(self.edge_to(node), name)

    def note(self, node: int) -> float:
        """What the rule knows of `node`."""
        return float(self._notes[node])

    def set_note(self, node: int, note: float) -> None:
        """Let the rule know a number of `node` (`search.tree.descent_kernels`)."""
        self._notes[node] = note
        self.forget(node)

    def point(self, node: int, place: int) -> None:
        """Let the next descent that comes to `node` take this edge of its block."""
        self._nodes["best"][node] = place

    def _get(self, edges: Any, name: str) -> Any:
        """A field of one edge or several, by number."""
        return self._words[: 3 * self._sizes[1]].view(GROUP)[name][edges >> 2, edges & 3]

    def _put(self, edges: Any, name: str, what: Any) -> None:
        self._words[: 3 * self._sizes[1]].view(GROUP)[name][edges >> 2, edges & 3] = what

    # -- room

    def reserve(self, nodes: int, edges: int) -> None:
        """Make room for so many more. Raises MemoryError, which leaves everything as it was."""
        for what, total in zip(("nodes", "edges"), self._sizes + (nodes, edges), strict=True):
            if total > _LIMIT:
                raise MemoryError(
                    f"a tree holds at most {_LIMIT:,} {what}: search with fewer simulations, "
                    "or drop trees you no longer need"
                )
        try:
            if self._sizes[0] + nodes > len(self._nodes):
                self._nodes = _larger(self._nodes, int(self._sizes[0]), nodes)
            self._fit_notes()
            if 3 * (self._sizes[1] + edges) > len(self._words):
                self._words = _larger(self._words, 3 * int(self._sizes[1]), 3 * edges)
        except MemoryError as error:
            raise MemoryError(
                f"no memory for {nodes:,} more nodes and {edges:,} more edges beside "
                f"{self._sizes[0]:,} and {self._sizes[1]:,}: "
                "the tree is as it was; search with fewer simulations"
            ) from error

    def _fit_notes(self) -> None:
        """As many notes as there is room for nodes, where notes are kept."""
        missing = len(self._nodes) - len(self._notes)
        if self.keeps_notes and missing > 0:
            self._notes = np.concatenate([self._notes, np.zeros(missing, np.float32)])

    # -- changing

    def root(self, player: int = 0) -> int:
        """A new root, without edges and visits."""
        return int(self.sow(1, player)[0])

    def sow(self, count: int, player: int = 0, visits: int = 0) -> np.ndarray:
        """int32 [count]: new roots, without edges."""
        self.reserve(count, 4 * count)
        first, own = self._sizes.tolist()
        self._sizes += count, 4 * count
        roots = np.arange(first, first + count, dtype=np.int32)
        self._words[3 * own : 3 * (own + 4 * count)] = 0.0
        edges = own + 4 * np.arange(count)
        fresh = self._nodes[first : first + count]
        fresh["first"] = -1
        fresh["parent"] = -2 - edges
        fresh["count"] = 0
        fresh["place"] = 0
        fresh["best"] = HERE
        fresh["room"] = SECOND if player else 0
        for name, what in (("prior", 1.0), ("value", np.nan), ("visits", visits), ("child", roots)):
            self._put(edges, name, what)
        return roots

    def use(self, rule: Rule, widen: float = 0.0) -> None:
        """Select by `rule` from now on."""
        if rule != self.rule or widen != self._widen:
            assert self.keeps_notes or not (widen or rule.notes), "this rule needs notes"
            self.rule = rule
            self._widen = widen
            self.kernels = rule.kernels
            self._params = rule.array(self.players, self.discount, widen)
            self.forget(slice(None))

    def forget(self, which: Any) -> None:
        """Let the kernels find anew what these nodes take next: something about them was
        changed.
        """
        self.nodes["best"][which] = STALE

    def gather(self, roots: np.ndarray) -> np.ndarray:
        """Keep only what stands below `roots` (int32 [trees], changed in place). int32 [nodes]:
        the old number of each node.
        """
        nodes = _vacant(len(self._nodes), self._nodes.dtype)
        words = _vacant(len(self._words), self._words.dtype)
        kept = np.empty(int(self._sizes[0]), np.int32)
        sizes = np.zeros(2, np.int64)
        gather(self._nodes, self._words, nodes, words, roots, kept, sizes)
        kept = kept[: sizes[0]].copy()
        if self.keeps_notes:
            self._notes[: len(kept)] = self._notes[kept]
        self._nodes = nodes
        self._words = words
        self._sizes = sizes
        return kept

    def snapshot(self) -> dict[str, np.ndarray]:
        """A copy of all that is in use."""
        nodes, edges = self._sizes.tolist()
        return {
            "nodes": self._nodes[:nodes].copy(),
            "words": self._words[: 3 * edges].copy(),
            "notes": self._notes[: nodes if self.keeps_notes else 1].copy(),
            "sizes": self._sizes.copy(),
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Be again what a snapshot of this arena held."""
        self._sizes[:] = 0
        self.reserve(int(snapshot["sizes"][0]), int(snapshot["sizes"][1]))
        for mine, name in ((self._nodes, "nodes"), (self._words, "words"), (self._notes, "notes")):
            mine[: len(snapshot[name])] = snapshot[name]
        self._sizes[:] = snapshot["sizes"]


def _vacant(length: int, dtype: np.dtype) -> np.ndarray:
    """An array that begins with a cache line: two of them hold four edges, and none of a group's
    vectors lies in both.
    """
    array = np.empty(length + 64 // dtype.itemsize, dtype)
    return array[-array.ctypes.data % 64 // dtype.itemsize :][:length]


def _larger(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """Half as large again at least. The room is untouched memory until it is used."""
    larger = _vacant(max(used + more, len(array) + len(array) // 2), array.dtype)
    larger[:used] = array[:used]
    return larger


def unknown(moves: np.ndarray) -> np.ndarray:
    """float32 [moves]: values that are not known, which keep the move."""
    return (np.asarray(moves, np.int32) | UNKNOWN).view(np.float32)


def check_count(count: int) -> None:
    if count > MOST_EDGES:
        raise ValueError(f"a node cannot have {count:,} edges: {MOST_EDGES:,} is the most")


def check_rows(rows: np.ndarray, values: np.ndarray, names: np.ndarray, what: str) -> None:
    """Raises ValueError that names the first row that is not allowed."""
    faults = {
        "priors that are not finite": ~np.isfinite(rows),
        "priors below 0": rows < 0,
    }
    for fault, where in faults.items():
        if where.any():
            row, move = np.argwhere(where)[0]
            raise ValueError(
                f"{what} {int(names[row])} has {fault}, the first at move {move}: "
                f"{rows[row, move]}; correct the evaluator"
            )
    totals = rows.sum(1, dtype=np.float64)
    wrong = (np.abs(totals - 1) > 1e-3) & (totals != 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"the priors of {what} {int(names[row])} sum to {totals[row]:.6g}, not to 1: "
            "normalise them"
        )
    outside = (values < 0) | (values > 1)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"the value of {what} {int(names[row])} is {values[row]}: give values in [0, 1], or "
            "nan to release the leaf"
        )
