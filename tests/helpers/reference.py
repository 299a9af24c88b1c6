"""Slow twins of the kernels, written from the papers and the rule book, with objects and no
tricks.
"""

from __future__ import annotations

import math


class Node:
    def __init__(self, player=0):
        # total in the view of `chooser`
        self.player, self.visits, self.total, self.children = player, 0, 0.0, []
        self.prior, self.value, self.closed, self.full, self.unseen = (
            1.0,
            math.nan,
            False,
            False,
            0.0,
        )


def descend(root: Node, c: float, fpu_reduction: float, widen: float = 0.0) -> list[Node]:
    """One PUCT descent; visits count at once."""
    path, node = [root], root
    while True:
        mean = node.total / max(node.visits, 1)
        if len(path) > 1 and path[-2].player != node.player:
            mean = 1 - mean
        parent_visits = node.visits
        node.visits += 1
        candidates = [child for child in node.children if not child.closed]
        if not candidates:
            return path

        def score(child, mean=mean, n=parent_visits):
            if child.visits:
                q = child.total / child.visits
            else:
                q = mean - fpu_reduction if math.isnan(child.value) else child.value
            return q + c * math.sqrt(n) * (child.prior / (1 + child.visits))

        unseen = (
            mean
            - fpu_reduction
            + c * math.sqrt(parent_visits) * widen * node.unseen / (1 + len(node.children))
        )
        if widen and node.unseen and not node.full and unseen > max(map(score, candidates)):
            return path
        node = max(candidates, key=score)
        path.append(node)


def backup(path: list[Node], value: float, discount: float, players: int = 1) -> None:
    """Values in the view of each node's chooser, turned at every change of player, then
    discounted (two players: towards 0.5).
    """
    for i in range(len(path) - 1, -1, -1):
        path[i].total += value
        if i == 0:
            break
        chooser = path[i - 1].player
        upper = path[i - 2].player if i >= 2 else path[0].player
        if chooser != upper:
            value = 1 - value
        value = 0.5 + discount * (value - 0.5) if players == 2 else discount * value
