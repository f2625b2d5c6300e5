"""PackNet: owners are a partition, pruning by magnitude, room for so many tasks."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from tests.methods.isolated import answers, learn, made, task_of
from torch import Tensor

from engram.errors import ConfigError
from engram.learning.state import LoopState
from engram.methods.packnet import PackNet, prune
from engram.methods.registry import method


def packnet(**options: object) -> PackNet:
    return cast(PackNet, made("packnet", **options))  # type: ignore[arg-type]


def owners(net: PackNet) -> list[Tensor]:
    return [net.owner(i).clone() for i in range(len(net.names))]


def test_owners_are_a_partition_and_change_by_the_own_pruning_only() -> None:
    net, state = packnet(first_prune=0.5, later_prune=0.75), LoopState()
    before = owners(net)
    for t in range(3):
        learn(net, t, state)
        now = owners(net)
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            n, free = new.numel(), int((new == 0).sum())
            assert sum(int((new == k).sum()) for k in range(t + 2)) == n
            assert torch.equal(new[old > 0], old[old > 0])
            assert not bool(net.net.trunk.get_parameter(net.names[i])[new == 0].any())  # freed weights are 0
            # q^t up to rounding; weights that no gradient reached are 0, tie, and are all freed.
            assert free / n > 0.5 * 0.75**t - (t + 1) / n
            assert t > 0 or free == n // 2
        before = now
    report = net.report()
    name = net.names[0]
    assert report["free"][name] + sum(report["owned"][name]) == pytest.approx(1.0, abs=1e-5)


def test_equal_shares_use_all_weights() -> None:
    net, state = packnet(shares="equal"), LoopState()
    assert net.capacity == {"n_tasks": 3}
    for t in range(3):
        learn(net, t, state)
    for owner in owners(net):
        shares = [float((owner == t).float().mean()) for t in range(4)]
        assert shares[:2] == pytest.approx([0.0, 1 / 3], abs=1 / owner.numel())
        assert shares[2] <= 1 / 3 + 1 / owner.numel()  # weights that no gradient reached are freed beside
        assert sum(shares) == pytest.approx(1.0)
    assert [p.name for p in net.phases(task_of(2), 9)] == ["finetune"]  # nobody needs what it would free


def test_the_smallest_of_the_own_weights_are_freed_with_ties() -> None:
    weight = torch.tensor([0.1, -0.2, 0.3, -0.4, 9.0, 0.01])
    owner = torch.tensor([2, 2, 2, 2, 1, 1], dtype=torch.uint8)
    prune(weight, owner, 2, 0.5)
    assert owner.tolist() == [0, 0, 2, 2, 1, 1]
    torch.testing.assert_close(weight, torch.tensor([0.0, 0.0, 0.3, -0.4, 9.0, 0.01]))
    tied = torch.tensor([0.5, -0.5, 0.5, 1.0])
    owner = torch.ones(4, dtype=torch.uint8)
    prune(tied, owner, 1, 0.25)
    assert owner.tolist() == [0, 0, 0, 1]  # less or equal
    prune(tied, owner, 1, 0.0)
    assert owner.tolist() == [0, 0, 0, 1]


def test_biases_are_learned_with_the_first_task_only() -> None:
    net, state = packnet(), LoopState()
    fresh = {n: p.detach().clone() for n, p in net.net.trunk.named_parameters() if n.endswith("bias")}
    learn(net, 0, state)
    first = {n: net.net.trunk.get_parameter(n).detach().clone() for n in fresh}
    learn(net, 1, state)
    assert all(not torch.equal(fresh[n], first[n]) for n in fresh)
    assert all(torch.equal(net.net.trunk.get_parameter(n), first[n]) for n in fresh)


def test_storage_counts_owners_in_bits() -> None:
    net, state = packnet(), LoopState()
    n = sum(o.numel() for o in owners(net))
    for t, bits in enumerate((1, 2, 2)):
        learn(net, t, state)
        assert net.storage_bytes()["masks"] == (n * bits + 7) // 8


def test_old_answers_do_not_need_what_is_freed_or_owned_later() -> None:
    net, state = packnet(), LoopState()
    learn(net, 0, state)
    was = answers(net, 0)
    for i, name in enumerate(net.names):
        net.owner(i).masked_fill_(net.owner(i) == 0, 2)
        with torch.no_grad():
            net.net.trunk.get_parameter(name)[net.owner(i) == 2] = 7.0
    assert torch.equal(answers(net, 0), was)


def test_more_tasks_than_there_is_room_for_are_refused() -> None:
    few = r"^each task must own weights in every layer, of \d+ tasks task (\d+) finds none left in layers.1.weight"
    with pytest.raises(ConfigError, match=few + r"[^\n]*$") as refused:
        packnet(n_tasks=30, later_prune=0.25)
    fits = int(str(refused.value).split(" tasks task ")[1].split()[0]) - 1
    packnet(n_tasks=fits, later_prune=0.25)
    with pytest.raises(ConfigError, match=r"^tasks must be at most 255 for packnet, got 300[^\n]*$"):
        packnet(n_tasks=300)
    with pytest.raises(ConfigError, match=r"^n_tasks must be known beforehand by PackNet[^\n]*$"):
        packnet(n_tasks=None, shares="equal")
    # A learner that does not know how many will come is told when there is no room.
    net, state = packnet(n_tasks=None, later_prune=0.0), LoopState()
    learn(net, 0, state)
    with pytest.raises(ConfigError, match=r"finds none left in layers.0.weight"):
        learn(net, 2, state)
    with pytest.raises(ConfigError, match=r"^packnet.later_prune must be a number in \[0, 1\)[^\n]*$"):
        method("packnet", later_prune=1.0)
