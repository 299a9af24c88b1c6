"""Other tree searches on hashtree-1, each driven as its own users drive it. A Python needs NumPy
and the rival itself, nothing of ours.

They compute what their libraries compute, which is not always what we do: each class says what
differs.
"""

from __future__ import annotations

import importlib.util
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes.watch import Watch
from benchmarks.tree import hashtree, reference_puct

clock = time.perf_counter


class Mctx:
    """mctx on the CPU, the evaluator compiled into the search; compilation is not timed.

    muzero  with Q as it is and the parent's mean for untaken moves, so that it computes what we
            compute;  gumbel: its defaults
    """

    module = "mctx"

    def __init__(self, policy: str):
        self.policy = policy

    def prepare(self, B: int, A: int, S: int, c: float, seed: int) -> None:
        import jax
        import jax.numpy as jnp
        import mctx

        word = jnp.uint32
        turns = jnp.arange(1, A + 1, dtype=word) * word(hashtree.WEIGHT)

        def mix(x: Any) -> Any:
            x = (x ^ (x >> 16)) * word(hashtree.FIRST)
            x = (x ^ (x >> 13)) * word(hashtree.SECOND)
            return x ^ (x >> 16)

        def judge(h: Any) -> tuple[Any, Any]:
            logits = jnp.log(((mix(h[:, None] + turns) >> 12) + 1).astype(jnp.float32))
            value = (mix(h ^ word(hashtree.VALUE)) >> 8).astype(jnp.float32)
            return logits, value * jnp.float32(2.0**-24)

        def play(params: Any, key: Any, move: Any, h: Any) -> Any:
            h = mix((h ^ ((move.astype(word) + 1) * word(hashtree.CHILD))) + word(hashtree.SHIFT))
            logits, value = judge(h)
            output = mctx.RecurrentFnOutput(
                reward=jnp.zeros_like(value),
                discount=jnp.ones_like(value),
                prior_logits=logits,
                value=value,
            )
            return output, h

        def plain(tree: Any, node: Any) -> Any:
            return jnp.where(
                tree.children_visits[node] > 0, tree.qvalues(node), tree.node_values[node]
            )

        def search(h: Any, key: Any) -> tuple[Any, Any]:
            logits, value = judge(h)
            root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=h)
            if self.policy == "gumbel":
                tree = mctx.gumbel_muzero_policy((), key, root, play, S).search_tree
            else:
                tree = mctx.muzero_policy(
                    (), key, root, play, S, qtransform=plain, dirichlet_fraction=0.0, pb_c_init=c,
                    pb_c_base=1e9
                ).search_tree  # fmt: skip
            return tree.children_visits[:, 0], tree.node_visits

        self.ready = jax.block_until_ready
        self.given = (jnp.asarray(hashtree.roots(B, seed)), jax.random.PRNGKey(0))
        self.search = jax.jit(search).lower(*self.given).compile()

    def run(self) -> dict[str, Any]:
        watch = Watch()
        self.visits, of_nodes = self.ready(self.search(*self.given))
        return {**watch.read(), "nodes": int(np.asarray(of_nodes).sum()) - len(of_nodes)}

    def root_visits(self) -> np.ndarray:
        return np.asarray(self.visits)


class OpenSpiel:
    """The MCTSBot in C++ with PUCT, one tree after another, all from the root of tree 0; a random
    roll-out a leaf.

    It searches finite games: the tree is written out until it has `leaves`. Its payoffs are 2 value
    - 1 and c is doubled, which is the same rule in other units. Priors are uniform, and a leaf is
    expanded when it is reached again. core: the share of time without the roll-outs, one for each
    node of the tree; what one costs is how the time grows with their number where all payoffs are
    0, so that the tree stays the same.
    """

    module = "pyspiel"
    leaves = 2**16

    def prepare(self, B: int, A: int, S: int, c: float, seed: int) -> None:
        import pyspiel

        self.lib = pyspiel
        self.given = (B, S, 2 * c, seed)
        self.depth = next(depth for depth in range(1, 40) if A**depth >= self.leaves)
        root = reference_puct.root(0, seed)
        self.game = pyspiel.load_efg_game(written(root, A, self.depth, 1.0))
        flat = pyspiel.load_efg_game(written(root, A, self.depth, 0.0))
        runs = [(flat, 1), (flat, 2), (self.game, 1)]
        least = [math.inf] * 3
        begin = clock()
        rounds = 0
        # the least of each: others disturb, and chill the caches
        while rounds < 9 or (rounds < 200 and clock() - begin < 1.0):
            for place, (game, rollouts) in enumerate(runs):
                least[place] = min(least[place], self._search(game, rollouts)["cpu"])
            rounds += 1
        one = (least[1] - least[0]) / self._count(flat)[0]
        evaluated, self.nodes = self._count(self.game)
        self.core = 1 - one * evaluated / least[2]

    def _search(self, game: Any, rollouts: int, tops: list | None = None) -> dict[str, float]:
        """Time of the searches of all trees, whose roots go to `tops`."""
        trees, simulations, c, seed = self.given
        judge = self.lib.RandomRolloutEvaluator(rollouts, seed + 1)
        watch = Watch()
        for tree in range(trees):
            bot = self.lib.MCTSBot(
                game,
                judge,
                c,
                simulations,
                4000,
                False,
                tree,
                False,
                self.lib.ChildSelectionPolicy.PUCT,
            )
            top = bot.mcts_search(game.new_initial_state())
            if tops is not None:
                tops.append(top)
        return watch.read()

    def _count(self, game: Any) -> tuple[int, int]:
        """Nodes that were evaluated by a roll-out, and nodes that all descents came by."""
        tops: list[Any] = []
        self._search(game, 1, tops)
        below = [(top, 0) for top in tops]
        evaluated = 0
        walked = 0
        while below:
            node, depth = below.pop()
            walked += node.explore_count
            evaluated += node.explore_count > 0 and depth < self.depth
            below += [(child, depth + 1) for child in node.children]
        return evaluated, walked

    def run(self) -> dict[str, Any]:
        return {**self._search(self.game, 1), "core": self.core, "nodes": self.nodes}


def written(position: int, moves: int, depth: int, scale: float = 1.0) -> str:
    """hashtree-1 below a position, `depth` moves deep, in the format of Gambit; payoffs are 2
    value - 1, times `scale`.
    """
    text = ['EFG 2 R "hashtree" { "one" "two" }']
    counts = [0, 0]
    actions = " ".join(f'"{move}"' for move in range(moves))

    def write(position: int, depth: int) -> None:
        counts[depth == 0] += 1
        if depth == 0:
            payoff = scale * (2 * reference_puct.value(position) - 1)
            text.append(f't "" {counts[1]} "end {counts[1]}" {{ {payoff:.6f} {-payoff:.6f} }}')
            return
        text.append(f'p "" 1 {counts[0]} "{counts[0]}" {{ {actions} }} 0')
        for move in range(moves):
            write(reference_puct.child(position, move), depth - 1)

    write(position, depth)
    return "\n".join(text) + "\n"


class LightZero:
    """The ctree of MuZero in C++, driven as its own search drives it, with a NumPy evaluator; core:
    the share of time without that one.

    Q is scaled between its extremes, ties are broken at random.
    """

    module = "lzero"

    def prepare(self, B: int, A: int, S: int, c: float, seed: int) -> None:
        folder = importlib.util.find_spec("lzero")
        assert folder is not None and folder.submodule_search_locations
        [path] = Path(list(folder.submodule_search_locations)[0]).glob(
            "mcts/ctree/ctree_muzero/mz_tree*.so"
        )
        # the package around it wants torch and much else
        spec = importlib.util.spec_from_file_location("mz_tree", path)
        assert spec is not None and spec.loader is not None
        self.tree = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.tree)
        self.given = (B, A, S, c, seed)

    def run(self) -> dict[str, Any]:
        trees, moves, simulations, c, seed = self.given
        tree = self.tree
        spent = 0.0  # seconds of the evaluator
        watch = Watch()
        positions = np.empty((simulations + 1, trees), np.uint32)
        positions[0] = hashtree.roots(trees, seed)
        nothing = [0.0] * trees
        players = [-1] * trees
        top = tree.Roots(trees, [list(range(moves)) for _ in range(trees)])
        logits = np.log(hashtree.weights(positions[0], moves).astype(np.float32))
        top.prepare_no_noise(nothing, logits.tolist(), players)
        extremes = tree.MinMaxStatsList(trees)
        extremes.set_delta(0.01)
        for simulation in range(1, simulations + 1):
            results = tree.ResultsWrapper(num=trees)
            level, place, taken, turn = tree.batch_traverse(
                top, 19_652, c, 1.0, extremes, results, list(players)
            )
            asked = clock()
            found = positions[simulation] = hashtree.children(
                positions[level, place], np.asarray(taken)
            )
            logits = np.log(hashtree.weights(found, moves).astype(np.float32))
            values = hashtree.values(found)
            spent += clock() - asked
            tree.batch_backpropagate(
                simulation, 1.0, nothing, values.tolist(), logits.tolist(), extremes, results, turn
            )
        total = watch.read()
        return {**total, "core": 1 - spent / total["seconds"]}


class Reasoners:
    """The MCTS of llm-reasoners with its defaults: UCT without priors, at most five steps deep,
    every leaf followed to there.
    """

    module = "reasoners"

    def prepare(self, B: int, A: int, S: int, c: float, seed: int) -> None:
        from reasoners.algorithm import MCTS

        class World:
            position = 0

            def init_state(self) -> int:
                return self.position

            def step(self, position: int, move: int) -> tuple[int, dict]:
                return reference_puct.child(position, move), {}

            def is_terminal(self, position: int) -> bool:
                return False

        class Config:
            def get_actions(self, position: int) -> range:
                return range(A)

            def fast_reward(self, position: int, move: int) -> tuple[float, dict]:
                return reference_puct.weight(position, move) / 2**20, {}

            def reward(self, position: int, move: int, **details: Any) -> tuple[float, dict]:
                return reference_puct.value(reference_puct.child(position, move)), {}

        self.roots = [reference_puct.root(tree, seed) for tree in range(B)]
        self.world = World()
        self.config = Config()
        self.new = lambda: MCTS(n_iters=S, w_exp=c)

    def run(self) -> dict[str, Any]:
        watch = Watch()
        for root in self.roots:
            self.world.position = root
            self.new()(self.world, self.config)
        return watch.read()


def mctx_muzero() -> Mctx:
    return Mctx("muzero")


def mctx_gumbel() -> Mctx:
    return Mctx("gumbel")


RIVALS = {
    "mctx-muzero": "benchmarks.tree.rivals:mctx_muzero",
    "mctx-gumbel": "benchmarks.tree.rivals:mctx_gumbel",
    "openspiel": "benchmarks.tree.rivals:OpenSpiel",
    "lightzero": "benchmarks.tree.rivals:LightZero",
    "reasoners": "benchmarks.tree.rivals:Reasoners",
}  #: what the process of each makes (`benchmarks.processes.child`)
