"""The board network, its files, and its backend."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from board_cases import HEX, random_net

import guides
from guides.policies.board import board_guide
from models import BoardNet, Boards
from search import (
    Forward,
    Generate,
    RequestFailed,
    ask,
    check_backend,
    check_policy,
    check_value,
    run,
)
from search.problems.hex import Hex
from search.scheduling.requests import Cancelled


def request(i: int) -> Forward:
    """Requests of 1 position, of one in a batch, and of many."""
    rng, shape = np.random.default_rng(i), ((), (1,), (7,), (40,), (16,))[i]
    return Forward(rng.integers(0, 2, (*shape, 2, 3, 3)).astype(np.float32))


def test_examined():
    check_backend(Boards(random_net(width=64, depth=4)), request)


def test_one_pass_answers_all_that_wait():
    backend, net = Boards(random_net()), random_net()
    requests = [request(i) for i in range(4)]
    for one in requests:
        backend.submit(one)
    replies = backend.poll()
    assert (
        [reply.request for reply in replies] == requests
        and backend.total_passes == 1
        and backend.total_rows == 49
    )
    for one, reply in zip(requests, replies, strict=True):
        planes = torch.from_numpy(one.planes.reshape(-1, 2, 3, 3))
        with torch.no_grad():
            logits, value = net(planes)
        policy, chances = reply.result
        assert (
            policy.shape == (len(planes), 9)
            and chances.shape == (len(planes),)
            and policy.dtype == chances.dtype == np.float32
        )
        assert np.allclose(policy, logits, atol=2e-5) and np.allclose(
            chances, value.sigmoid(), atol=2e-5
        )
        assert (policy * 2**16 == np.round(policy * 2**16)).all(), (
            "last bits that depend on the batch must not enter a tree"
        )
        assert reply.usage.calls == reply.usage.passes == 1 and (
            reply.usage.rows,
            reply.usage.slots,
        ) == (49, 64)
        parameters = sum(weights.numel() for weights in net.parameters())
        assert reply.usage.flops == 2 * parameters * len(planes)
    assert backend.poll() == []


def test_cancelled_and_closed():
    backend = Boards(random_net())
    one, two = request(0), request(1)
    backend.submit(one)
    backend.submit(two)
    backend.cancel(one)
    backend.cancel(one)
    replies = {reply.request: reply for reply in backend.poll()}
    assert isinstance(replies[one].error, Cancelled) and replies[two].error is None
    backend.submit(one)
    backend.close()
    backend.close()
    assert backend.poll() == []


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 3), (1, 3, 3), (5, 5, 2, 3, 3), (0, 2, 3, 3), ()])
def test_planes_of_another_board_are_refused(shape):
    backend = Boards(random_net())
    wrong, right = Forward(np.zeros(shape, np.float32)), request(0)
    backend.submit(wrong)
    backend.submit(right)
    replies = {reply.request: reply for reply in backend.poll()}
    assert isinstance(replies[wrong].error, ValueError) and "for this size of board" in str(
        replies[wrong].error
    )
    assert replies[right].error is None and replies[right].usage.rows == 1


def test_requests_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="Forward requests only"):
        run(ask(Generate((1,))), {"policy": Boards(random_net())})


def test_a_new_network_prefers_nothing_and_leaves_global_random_numbers_alone():
    before = torch.random.get_rng_state()
    net = BoardNet((2, 3, 3), 9, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    logits, value = net(torch.from_numpy(request(3).planes))
    assert not logits.any() and not value.any()
    assert (
        BoardNet((2, 3, 3), 9, seed=5).version
        == net.version
        != BoardNet((2, 3, 3), 9, seed=6).version
    )
    with pytest.raises(ValueError, match="above 0"):
        BoardNet((2, 3, 3), 9, width=0)


def test_saved_and_loaded(tmp_path):
    net = random_net(4)
    again = BoardNet.load(net.save(tmp_path / "net"))
    assert again.version == net.version and again.kinds == (HEX,) and again.notes() == net.notes()
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert sum(file.stat().st_size for file in (tmp_path / "net").iterdir()) < 16_000
    again.gains.data[0] += 1e-3
    assert again.version != net.version


def spoil_weights(folder):
    (folder / "boardnet.safetensors").write_bytes(
        (folder / "boardnet.safetensors").read_bytes()[:-40]
    )


def spoil_number(folder):
    net = BoardNet.load(folder)
    net.gains.data[0] = torch.nan
    net.save(folder)


def note(**changes):
    def spoil(folder):
        notes = json.loads((folder / "boardnet.json").read_text())
        (folder / "boardnet.json").write_text(json.dumps(notes | changes))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "boardnet.json").unlink(),
        lambda folder: (folder / "boardnet.json").write_text("{"),
        lambda folder: (folder / "boardnet.json").write_text("[1]"),
        lambda folder: (folder / "boardnet.safetensors").unlink(),
        spoil_weights,
        spoil_number,
        note(format=2),
        note(width=17),
        note(planes=[]),
        note(moves="nine"),
        note(kinds=None),
    ],
)
def test_a_malformed_folder_is_refused_in_words(tmp_path, spoil):
    folder = random_net().save(tmp_path / "net")
    spoil(folder)
    with pytest.raises(ValueError, match="copse train hex"):
        guides.load_board(folder)
    with pytest.raises(ValueError, match="no board network in"):
        guides.load_board(tmp_path / "nowhere")


# -- as a guide


@pytest.mark.thorough
def test_the_guide_is_examined():
    guide = board_guide(random_net())
    check_policy(guide.policy, Hex(3))
    check_value(guide.value, Hex(3, (4,)))
    guide.check(Hex(3))
    with pytest.raises(ValueError, match="Hex problems only"):
        guide.check(Other())


class Other:
    """No Hex."""


@pytest.mark.parametrize("start", [(), (1, 5, 2)])
def test_what_it_says_does_not_depend_on_who_moves(start):
    """The second player sees the mirrored board: the same priors at the mirrored moves, and the
    same value.
    """
    guide, problem = board_guide(random_net()), Hex(3)
    state = Hex(3, start).initial()
    cells = np.frombuffer(state, np.uint8)[:-1].reshape(3, 3)
    mirrored = np.append(np.choose(cells.T, [0, 2, 1]), state[-1] ^ 1).astype(np.uint8)
    positions = np.stack([np.frombuffer(state, np.uint8), mirrored])
    priors, values = run(guide.policy.judge(problem, positions), guide.backends)
    assert (
        np.allclose(priors[0].reshape(3, 3).T, priors[1].reshape(3, 3)) and values[0] == values[1]
    )
    assert ((priors > 0) == (positions[:, :-1] == 0)).all() and np.allclose(priors.sum(1), 1)
    proposals = run(
        guide.policy.propose(problem, state, 1, np.random.default_rng(0)), guide.backends
    )
    assert [proposal.step for proposal in proposals] == problem.actions(state)
    assert np.allclose([proposal.prior for proposal in proposals], priors[0][priors[0] > 0])
    known = np.array([np.nan], np.float32)
    assert run(
        guide.value.evaluate(problem, [state], known, np.random.default_rng(0)), guide.backends
    )[0] == np.float32(values[0])


def test_a_sure_network_leaves_every_legal_move_a_prior():
    net = random_net()
    net.policy.bias.data[4] = 1e4
    guide = board_guide(net)
    priors, _ = run(guide.policy.judge(Hex(3), np.zeros((1, 10), np.uint8)), guide.backends)
    assert (priors > 0).all() and priors[0, 4] > 0.99


def test_a_network_that_gives_no_number_fails_the_request():
    net = random_net()
    net.policy.bias.data[4] = torch.nan
    guide = board_guide(net)
    with pytest.raises(RequestFailed, match="no number"):
        run(
            guide.policy.propose(Hex(3), Hex(3).initial(), 1, np.random.default_rng(0)),
            guide.backends,
        )
