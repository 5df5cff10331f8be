import os

import pytest
import torch
import torch.distributed as dist

from drn_cli.distributed.group import Group, join, started_by_torchrun

CPU = torch.device("cpu")


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 8, 101])
def test_shares_hold_every_item_once(count, world):
    items = list(range(count))
    shares = [Group(rank, world, CPU).share(items) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not started_by_torchrun()
    with join() as group:
        assert (group.rank, group.world, group.first) == (0, 1, True)
        assert not dist.is_initialized()
        assert group.sum(torch.tensor([3])).tolist() == [3]
        assert group.any(True) and not group.any(False)
        assert group.tell("mine") == "mine"
        group.wait()


def talk(group: Group) -> dict:
    assert started_by_torchrun()
    counts = torch.tensor([2**40 + group.rank, group.rank])
    given = group.sum(counts)
    return {
        "rank": group.rank,
        "world": group.world,
        "first": group.first,
        "device": str(group.device),
        "sum": counts.tolist(),
        "in_place": given is counts,
        "any": [group.any(group.rank == 1), group.any(False), group.any(True)],
        "told": group.tell(f"from {group.rank}: ü"),
        "share": list(group.share(range(5))),
        "pid": os.getpid(),
    }


def test_two_processes(spawn):
    first, second = spawn(talk, 2)
    assert first["pid"] != second["pid"]
    assert (first["rank"], first["first"], second["rank"], second["first"]) == (0, True, 1, False)
    for answer in (first, second):
        assert answer["world"] == 2
        assert answer["device"] == "cpu"
        assert answer["sum"] == [2**41 + 1, 1]
        assert answer["in_place"]
        assert answer["any"] == [True, False, True]
        assert answer["told"] == "from 0: ü"
    assert (first["share"], second["share"]) == ([0, 2, 4], [1, 3])
