import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from drn_cli.distributed.group import (
    ATTEMPT,
    Group,
    attempt_store,
    gpu_index,
    join,
    register_failure,
)
from drn_cli.distributed.heartbeat import LONG, Progress, Watch
from drn_cli.errors import DrnError, started_by_torchrun

CPU = torch.device("cpu")


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 8, 101])
def test_every_item_is_in_exactly_one_shard(count, world):
    items = list(range(count))
    shards = [Group(rank, world, CPU).shard(items) for rank in range(world)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_single_process_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not started_by_torchrun()
    with join() as group:
        assert (group.rank, group.world, group.is_main) == (0, 1, True)
        assert not dist.is_initialized()
        assert group.sum(torch.tensor([3])).tolist() == [3]
        assert group.any(True) and not group.any(False)
        assert group.broadcast_object("mine") == "mine"
        assert group.gather_objects("mine") == ["mine"]
        group.barrier()


def reduce_and_exchange(group: Group) -> dict:
    assert started_by_torchrun()
    counts = torch.tensor([2**40 + group.rank, group.rank])
    given = group.sum(counts)
    return {
        "rank": group.rank,
        "world": group.world,
        "is_main": group.is_main,
        "device": str(group.device),
        "sum": counts.tolist(),
        "in_place": given is counts,
        "any": [group.any(group.rank == 1), group.any(False), group.any(True)],
        "broadcast": group.broadcast_object(f"from {group.rank}: ü"),
        "gathered": group.gather_objects({"rank": group.rank}),
        "shard": list(group.shard(range(5))),
        "pid": os.getpid(),
    }


def test_collectives_of_two_processes(spawn):
    first, second = spawn(reduce_and_exchange, 2)
    assert first["pid"] != second["pid"]
    assert (first["rank"], first["is_main"], second["rank"], second["is_main"]) == (
        0,
        True,
        1,
        False,
    )
    for answer in (first, second):
        assert answer["world"] == 2
        assert answer["device"] == "cpu"
        assert answer["sum"] == [2**41 + 1, 1]
        assert answer["in_place"]
        assert answer["any"] == [True, False, True]
        assert answer["broadcast"] == "from 0: ü"
        assert answer["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert (first["shard"], second["shard"]) == ([0, 2, 4], [1, 3])


def broadcast_and_fail(group: Group) -> dict:
    own = torch.tensor([group.rank + 1.0])
    group.broadcast_tensors([own, torch.zeros(0)])
    if group.rank == 1:
        failed_first = register_failure()
        group.barrier()
    else:
        group.barrier()
        failed_first = register_failure()
    return {
        "broadcast": own.item(),
        "max": [
            group.all_reduce_max(group.rank),
            group.all_reduce_max(5 - group.rank),
            group.all_reduce_max(-3),
        ],
        "failed_first": [failed_first, register_failure()],
    }


@pytest.mark.parametrize("world", [2, 3])
def test_rank_1_fails_first(spawn, world):
    answers = spawn(broadcast_and_fail, world)
    for rank, answer in enumerate(answers):
        assert answer["broadcast"] == 1
        assert answer["max"] == [world - 1, 5, -3]
        # Later calls return the same.
        assert answer["failed_first"] == [rank == 1] * 2


def test_a_single_process_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    register_failure.cache_clear()
    assert register_failure()
    group, tensor = Group(0, 1, CPU), torch.ones(1)
    group.broadcast_tensors([tensor])
    assert (group.all_reduce_max(7), tensor.item()) == (7, 1)


AGENT = {"TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.mark.skipif(not hasattr(dist.TCPStore, "list_keys"), reason="keys cannot be listed")
@pytest.mark.parametrize(
    ("variables", "prefixes"),
    [
        (AGENT | {ATTEMPT: "named", "TORCHELASTIC_RESTART_COUNT": "7"}, {"named"}),
        (AGENT | {"TORCHELASTIC_RESTART_COUNT": "7", "GROUP_WORLD_SIZE": "1"}, {"7"}),
        # torchrun on several nodes, each of which counts its own restarts: no prefix.
        (AGENT | {"TORCHELASTIC_RESTART_COUNT": "7", "GROUP_WORLD_SIZE": "2"}, {"7", "default_pg"}),
    ],
)
def test_store_keys_are_prefixed_by_attempt(monkeypatch, variables, prefixes):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    known = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name in ("TORCHELASTIC_RESTART_COUNT", "GROUP_WORLD_SIZE", ATTEMPT):
        monkeypatch.delenv(name, raising=False)
    for name, value in (known | variables | {"MASTER_PORT": str(store.port)}).items():
        monkeypatch.setenv(name, value)
    register_failure.cache_clear()
    with join() as group:
        assert register_failure()
        group.watch(5.0)
    register_failure.cache_clear()
    keys = store.list_keys()
    assert {key.partition("/")[0] for key in keys} == prefixes
    # Only our own agent, which sets an id, watches progress.
    watched = [key for key in keys if "progress" in key]
    assert watched == ["named/drn/progress/0"] * (prefixes == {"named"})


def be_slow(group: Group) -> int:
    """Let rank 1 work for longer than the limit."""
    watched = replace(group, progress=Progress(dist.HashStore(), group.rank))
    watched.watch(1.0)
    if group.rank == 1:
        time.sleep(2.5)
    return watched.all_reduce_max(group.rank)


def test_timeout_of_collectives_exceeds_the_limit_of_the_agent(spawn):
    assert spawn(be_slow, 2) == [1, 1]


@pytest.mark.parametrize(
    ("limit", "reported"), [(None, [0, 0, "start"]), (60.0, [60.0, 3, "training"])]
)
def test_reports_progress_only_with_a_limit(limit, reported):
    Group(0, 1, CPU).watch(limit)  # does nothing without an agent
    store = dist.HashStore()
    group = Group(0, 1, CPU, Progress(store, 0))
    group.watch(limit)
    group.advance("training", 3)
    assert json.loads(store.get("drn/progress/0"))[1:] == reported


ALONE = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", ATTEMPT, "SLURM_STEP_NUM_TASKS")


@pytest.fixture
def second_of_two(monkeypatch):
    """The environment of rank 1 of 2; yields the port, which is in use."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)
    known = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (known | {"MASTER_PORT": str(store.port)}).items():
        monkeypatch.setenv(name, value)
    register_failure.cache_clear()
    yield store.port
    register_failure.cache_clear()


def failing_init(monkeypatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(dist, "init_process_group", fail)


JOIN = "from drn_cli.distributed.group import join\nwith join(): pass"


def test_reports_progress_before_the_rendezvous(monkeypatch, second_of_two, until):
    """So that the watch finds the rank that is missing, rank 0 here."""
    for name, value in (AGENT | {ATTEMPT: "named"}).items():
        monkeypatch.setenv(name, value)
    store = attempt_store("named", "127.0.0.1", second_of_two, timedelta(seconds=60))
    waiting = subprocess.Popen([sys.executable, "-c", JOIN])
    until(lambda: waiting.poll() is not None or store.check(["drn/progress/1"]))
    seconds = itertools.count()
    watch = Watch(lambda: store, 2, {}, lambda: float(next(seconds)))
    stalls = [watch.stall() for _ in range(int(LONG) + 5)]
    assert waiting.poll() is None
    waiting.kill()
    waiting.communicate()
    assert stalls[-1] is not None and stalls[-1].ranks == (0,)


@pytest.mark.parametrize("agent", [None, "False"])
def test_a_port_in_use_is_an_error(monkeypatch, second_of_two, agent):
    monkeypatch.setenv("RANK", "0")
    if agent is not None:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", agent)
    with pytest.raises(DrnError, match=f"^port {second_of_two} is in use"), join():
        pass


@pytest.mark.parametrize(
    ("by_agent", "problem"),
    [
        (False, "gave up waiting for rank 0 at 127.0.0.1:{} because WORLD_SIZE=2 is set"),
        (True, "another process of the job was lost (timed out after)"),
    ],
)
def test_missing_processes_are_an_error(monkeypatch, second_of_two, by_agent, problem):
    failing_init(monkeypatch, dist.DistNetworkError("The client socket has timed out after 1800s"))
    if by_agent:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    with pytest.raises(DrnError) as caught, join():
        pass
    assert caught.value.message == problem.format(second_of_two)


def test_without_a_store_every_failure_is_the_first(monkeypatch, second_of_two):
    monkeypatch.delenv("MASTER_ADDR")
    assert register_failure()


# Shortened messages of gloo, the store and NCCL.
@pytest.mark.parametrize(
    "text",
    [
        "[pair.cc:545] Read error [127.0.0.1]:23735: Connection reset by peer. This is typically",
        "[pair.cc:553] Connection closed by peer [127.0.0.1]:5121",
        "[pair.cc:152] timed out connecting: SO_ERROR: Connection refused, remote=[127.0.0.1]",
        "Timed out waiting 1800000ms for recv operation to complete",
        "wait timeout after 1800000ms, keys: /default_pg/0//cpu//0/1",
        "NCCL error: ncclRemoteError: A call failed possibly due to a network error",
    ],
)
def test_explains_lost_processes(monkeypatch, second_of_two, text):
    failing_init(monkeypatch, RuntimeError(text))
    with pytest.raises(DrnError, match=r"^another process of the job was lost \(.*\)"), join():
        pass


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 3) exited: Connection reset by peer"),
        RuntimeError("CUDA error: out of memory"),
        ConnectionResetError("Connection reset by peer"),
        DrnError("the image is broken"),
    ],
    ids=lambda error: str(error)[:12],
)
def test_does_not_change_other_errors(monkeypatch, second_of_two, error):
    failing_init(monkeypatch, error)
    with pytest.raises(type(error)) as raised, join():
        pass
    assert raised.value is error


@pytest.mark.parametrize(
    ("local_rank", "gpus", "tasks", "index"),
    [(0, 1, 1, 0), (3, 4, 4, 3), (3, 1, 4, 0), (1, 1, 2, 0)],
)
def test_gpu_of_a_local_rank(monkeypatch, local_rank, gpus, tasks, index):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(tasks))
    assert gpu_index(local_rank) == index


@pytest.mark.parametrize(("local_rank", "gpus", "tasks"), [(1, 1, 1), (2, 2, 4), (0, 0, 2)])
def test_too_few_gpus(monkeypatch, local_rank, gpus, tasks):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(tasks))
    with pytest.raises(DrnError, match=f"local rank {local_rank} has no GPU: this node has {gpus}"):
        gpu_index(local_rank)
