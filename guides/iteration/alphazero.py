"""AlphaZero for a board problem as expert iteration: self-play, distil, train, gate; then again
with the better network.

The gate plays a match of the new network against the accepted one, with as many simulations a move
as in self-play and without noise: every first move, and then random pairs of moves, are the
openings, each played once with either player. The new network is accepted if it scores at least
half: of two that are equal the newer has learnt from more games. (AlphaGo Zero asked for 55 %,
AlphaZero for nothing; Silver et al. 2017, 2018.) A run is a folder:

    settings.json   what the run was started with; other arguments are refused, but `rounds` may
    grow
    round-00/       checkpoint/: the network before any training; gate.json
    round-01/       traces.parquet, examples.npz, checkpoint/, gate.json: each renamed into place
                    when it is complete
    best/           a copy of the accepted checkpoint

A start looks for the first that is missing, so a killed run that is started again repeats nothing
that was finished.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guides.iteration.run_folder import (
    accepted_before,
    claimed,
    copy_checkpoint,
    round_folder,
    write_json,
)
from guides.policies.board import Examples, board_guide, examples
from models.boardnet import BoardNet
from search.files.atomic import atomic
from search.guide import Guide
from search.kinds import kind_of
from search.methods.selfplay import BoardProblem, selfplay, think
from search.scheduling.budget import Budget, Meter
from search.scheduling.driver import run
from search.scheduling.scheduler import metered, parallel
from search.solver import seed_of
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")


#: fields of a plan that are at least 1
_COUNTS = ("width", "depth", "games", "simulations", "window", "epochs", "batch", "openings")


@dataclass(frozen=True)
class BoardPlan:
    """What every round does.

    width, depth     of the network
    games            of self-play;  simulations: of a move, there and at the gate
    opening, warm    first moves drawn at random, and by visits (`search.methods.selfplay`)
    window           rounds whose examples are trained on;  epochs: passes through them;  batch, lr,
                     decay: of AdamW
    value_weight     of the value's loss beside the policy's
    openings         of the gate's match, each of two games
    seed             the same gives the same run
    """

    width: int = 64
    depth: int = 3
    games: int = 512
    simulations: int = 64
    opening: int = 4
    warm: int = 8
    window: int = 4
    epochs: int = 4
    batch: int = 128
    lr: float = 1e-3
    decay: float = 1e-4
    value_weight: float = 1.0
    openings: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} trains nothing: give at least 1")
        if (
            self.lr <= 0
            or min(self.decay, self.value_weight, self.opening, self.warm, self.seed) < 0
        ):
            raise ValueError(
                "lr must be above 0; decay, value_weight, opening, warm and seed are numbers "
                "from 0 on: correct them"
            )


def board_iteration(
    problem: BoardProblem, out: str | Path, *, rounds: int, plan: BoardPlan | None = None
) -> Path:
    """Run or go on with `rounds` rounds in the folder `out`; the path of the best network,
    `out/best`.

    Raises ValueError for bad input, and where the folder holds another run; OSError (a full disk)
    and KeyboardInterrupt leave all that was finished, and the same call goes on with it.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} trains nothing: give at least 1")
    work = _Rounds(problem, Path(out), plan or BoardPlan())
    with claimed(work.out, work.settings):
        work.start()
        for number in range(1, rounds + 1):
            work.round(number, rounds)
    return work.out / "best"


@dataclass(frozen=True)
class _Rounds:
    problem: Any
    out: Path
    plan: BoardPlan

    @property
    def kind(self) -> str:
        return kind_of(self.problem)

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "arguments": self.problem.to_json(), **asdict(self.plan)}

    def start(self) -> None:
        """Round 0: a network that knows nothing."""
        place = self._folder(0)
        if not (place / "checkpoint").exists():
            first = np.frombuffer(self.problem.initial(), np.uint8)[None]
            shape = self.problem.planes(first).shape[1:]
            plan = self.plan
            net = BoardNet(
                shape,
                self.problem.game.moves,
                plan.width,
                plan.depth,
                plan.seed,
                kinds=(self.kind,),
            )
            os.replace(net.save(place / "checkpoint.part"), place / "checkpoint")
        if not (place / "gate.json").exists():
            write_json(place / "gate.json", {"accepted": True})

    def round(self, number: int, rounds: int) -> None:
        """What is missing of one round."""
        steps = {
            "traces.parquet": self._play,
            "examples.npz": self._distil,
            "checkpoint": self._train,
            "gate.json": self._gate,
        }
        for name, step in steps.items():
            if not (self._folder(number) / name).exists():
                log.info("round %d of %d: %s", number, rounds, step.__name__[1:])
                step(number)
        accepted = self._accepted(number + 1)
        best = self.out / "best"
        if not (best.exists() and BoardNet.load(best).version == BoardNet.load(accepted).version):
            copy_checkpoint(accepted, best)

    # -- the four parts of a round

    def _play(self, number: int) -> None:
        plan = self.plan
        guide = self._guide(self._accepted(number))
        meter = Meter(Budget(simulations=plan.games * plan.simulations * self.problem.game.moves))
        rng = np.random.default_rng(seed_of(f"round {number}", plan.seed))
        games = selfplay(
            self.problem,
            guide,
            meter,
            rng,
            games=plan.games,
            simulations=plan.simulations,
            opening=plan.opening,
            warm=plan.warm,
        )
        traces = run(metered(games, meter), guide.backends)
        Trace.save(traces, self._folder(number) / "traces.parquet")

    def _distil(self, number: int) -> None:
        folder = self._folder(number)
        made = examples(Trace.load(folder / "traces.parquet"))
        with atomic(folder / "examples.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, **made._asdict())

    def _train(self, number: int) -> None:
        folder = self._folder(number)
        parts = []
        for i in range(max(1, number - self.plan.window + 1), number + 1):
            with np.load(self._folder(i) / "examples.npz") as arrays:
                parts.append(Examples(**arrays))
        whole = Examples(*map(np.concatenate, zip(*parts, strict=True)))
        net = BoardNet.load(self._accepted(number))
        report = train(net, whole, self.plan, seed_of(f"train {number}", self.plan.seed))
        place = net.save(folder / "checkpoint.part")
        write_json(place / "training.json", report)
        os.replace(place, folder / "checkpoint")
        log.info(
            "trained on %(examples)d positions: policy loss %(policy).3f, value loss %(value).3f",
            report,
        )

    def _gate(self, number: int) -> None:
        folder = self._folder(number)
        plan = self.plan
        guides = [self._guide(folder / "checkpoint"), self._guide(self._accepted(number))]
        rng = np.random.default_rng(seed_of(f"gate {number}", plan.seed))
        backends = {**guides[0].backends, **guides[1].backends}
        chosen = openings(self.problem, plan.openings, rng)
        games = run(match(self.problem, guides, chosen, plan.simulations), backends)
        verdict = {
            "games": games.size,
            "score": float(games.mean()),
            "first": float(games[:, 0].mean()),
            "second": float(games[:, 1].mean()),
        }
        write_json(folder / "gate.json", verdict | {"accepted": verdict["score"] >= 0.5})
        log.info(
            "the new network scores %.3f of %d games against the accepted one",
            verdict["score"],
            games.size,
        )

    # -- folders

    def _folder(self, number: int) -> Path:
        return round_folder(self.out, number)

    def _accepted(self, number: int) -> Path:
        return accepted_before(self.out, number)

    def _guide(self, place: Path) -> Guide:
        return board_guide(BoardNet.load(place))


def train(net: BoardNet, data: Examples, plan: BoardPlan, seed: int) -> dict[str, Any]:
    """Train a network in place by AdamW: cross-entropy of the policy with the visits, and of the
    value with the outcomes.

    Returns the mean losses of the last epoch, and how many examples and steps there were. Raises
    ValueError where a loss is no number.
    """
    planes, policy, chances = map(torch.from_numpy, data)
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.lr, weight_decay=plan.decay)
    rng = np.random.default_rng(seed)
    losses = np.zeros(2)
    steps = 0
    net.train()
    for _ in range(plan.epochs):
        losses[:] = 0
        for rows in torch.from_numpy(rng.permutation(len(planes))).split(plan.batch):
            logits, value = net(planes[rows])
            policy_loss = -(policy[rows] * logits.log_softmax(1)).sum(1).mean()
            value_loss = torch.nn.functional.binary_cross_entropy_with_logits(value, chances[rows])
            optimizer.zero_grad()
            (policy_loss + plan.value_weight * value_loss).backward()
            optimizer.step()
            losses += len(rows) * np.array([policy_loss.item(), value_loss.item()])
            steps += 1
        if not np.isfinite(losses).all():
            raise ValueError(
                f"the loss is no number after {steps} steps: train with a lower learning rate "
                f"than {plan.lr}"
            )
    net.eval()
    policy_loss, value_loss = (losses / len(planes)).tolist()
    return {"examples": len(planes), "steps": steps, "policy": policy_loss, "value": value_loss}


# -- the gate


def openings(problem: Any, count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """`count` different openings, or fewer where there are no more: first all moves, then random
    pairs of them. None ends a game.
    """

    def longer(moves: tuple[int, ...]) -> list[tuple[int, ...]]:
        state = problem.initial()
        for move in moves:
            state = problem.apply(state, move)
        found = []
        for move in problem.actions(state):
            if not problem.is_terminal(problem.apply(state, move)):
                found.append((*moves, move))
        return found

    singles = longer(())
    pairs = list(itertools.chain.from_iterable(map(longer, singles)))
    return [*singles, *(pairs[i] for i in rng.permutation(len(pairs)))][:count]


async def match(
    problem: Any, guides: Sequence[Guide], openings: Sequence[Sequence[int]], simulations: int
) -> np.ndarray:
    """Play each opening twice; float64 [openings, 2] in [0, 1], how the first guide fared as the
    first and as the second player.

    Each move is the one with most visits (of equals the first) after so many simulations of a new
    tree.
    """
    states = [problem.initial() for _ in range(2 * len(openings))]
    for game, state in enumerate(states):
        for move in openings[game // 2]:
            state = problem.apply(state, move)
        states[game] = state
    scores = np.full(len(states), np.nan)
    while np.isnan(scores).any():
        turns: list[list[int]] = [[], []]  # games in which the one guide or the other moves
        for game in np.flatnonzero(np.isnan(scores)).tolist():
            turns[problem.to_move(states[game]) ^ (game % 2)].append(game)
        movers = []
        searches = []
        for which in (0, 1):
            if not turns[which]:
                continue
            movers.append(which)
            rows = np.array([np.frombuffer(states[game], np.uint8) for game in turns[which]])
            searches.append(think(problem, guides[which], rows, simulations))
        forests = await parallel(searches)
        for which, forest in zip(movers, forests, strict=True):
            moves = forest.root_visits().argmax(axis=1).tolist()
            for game, move in zip(turns[which], moves, strict=True):
                states[game] = problem.apply(states[game], move)
                if problem.is_terminal(states[game]):
                    reward = problem.verify(states[game])
                    scores[game] = reward if which == 0 else 1.0 - reward
    return scores.reshape(-1, 2)
