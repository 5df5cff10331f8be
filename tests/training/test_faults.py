"""Faults in real processes: signals, kills, hangs, full disks, little memory, non-finite losses."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import assert_same_best, assert_same_run, content, go, prepare_in

from drn_cli.distributed.group import Group
from drn_cli.runs import Run

MIB = 2**20
BELOW_CHECKPOINT = 256 * 1024  # bytes; a checkpoint has about 400 KB
STEPS = 24  # of `recipe_file`
# For runs of two processes: metrics of every step, and a checkpoint for most of them.
IN_TWO = ("--gpus", "2", "train.save_every_steps=2", "train.log_every=1")

Process = subprocess.Popen[str]
WaitUntilTraining = Callable[..., None]


@pytest.fixture(scope="module")
def recipe_file(thin_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of width 1/16, on crops so large that a step (50 ms) can be interrupted."""
    path = tmp_path_factory.mktemp("recipe") / "easy.yaml"
    settings = "augment: {crop: 192}\ntrain: {epochs: 8}"
    path.write_text(f"extends: {thin_recipe_file}\n{settings}\n")
    return path


@pytest.fixture(scope="module")
def uninterrupted(drn_in, recipe_file, tmp_path_factory) -> Run:
    """The whole training of `recipe_file`; tests only read it."""
    cwd = tmp_path_factory.mktemp("uninterrupted")
    done = drn_in(cwd)("train", recipe_file, "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    return Run(cwd / "run")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def last_logged_step(run: Run) -> int:
    if not run.metrics.is_file():
        return 0
    lines = run.metrics.read_text().rpartition("\n")[0].splitlines()
    return max([json.loads(line)["step"] for line in lines], default=0)


def resumptions(run: Run) -> list[dict[str, Any]]:
    resumed: list[dict[str, Any]] = json.loads(run.environment.read_text())["resumed"]
    return resumed


@pytest.fixture
def wait_until_training(until: Callable[[Callable[[], Any]], Any]) -> WaitUntilTraining:
    """Wait until a process, or a job, trains; from then on it handles signals."""

    def wait(running: Process, run: Run, resumed: int = 0, step: int = 0) -> None:
        def training() -> bool:
            if running.poll() is not None:
                pytest.fail(f"left with {running.returncode}: {running.communicate()[1]}")
            if not run.environment.is_file() or len(resumptions(run)) != resumed:
                return False
            return last_logged_step(run) >= step

        until(training)

    return wait


def rank_pids(launcher: Process) -> dict[int, int]:
    """Return the process id of each rank of a job."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_text().split("\0")
        except OSError:  # the process has ended
            continue
        ranks = [int(word[5:]) for word in variables if word.startswith("RANK=")]
        if parent == launcher.pid and ranks:
            found[ranks[0]] = int(folder.name)
    return found


def wait_for_end(running: Process) -> tuple[int, str, str]:
    out, err = running.communicate(timeout=300)
    # No traceback of ours; coverage may print one of its own when a process is killed at its end.
    assert not re.search(r'File ".*/drn_cli/', err), err
    return running.returncode, out, err


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error:")]


# Signals.


@pytest.mark.slow
def test_a_run_stopped_by_three_signals_resumes_exactly(
    drn, recipe_file, uninterrupted, run, wait_until_training, read_metrics
):
    """Each signal ends the current step with a checkpoint and has its own exit code."""
    words = [recipe_file, "data.workers=2", "--run-dir", "run"]
    steps = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)):
        running = drn.begin("train", *words)
        wait_until_training(running, run, resumed=len(steps))
        if number == signal.SIGINT:  # as a terminal does: to the data loader workers too
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        returned, out, err = wait_for_end(running)
        assert (returned, out) == (code, ""), err
        assert err.count(f"{number.name}: stopping after this step") == 1
        assert err.count("interrupted; checkpoint run/checkpoints/last.pt") == 1
        assert err.count("resume with: drn train --resume run") == 1
        assert not errors(err)
        steps.append(content(run)["progress"]["steps"])
        end = read_metrics(run.folder)[-1]
        assert end == {"kind": "end", "step": steps[-1], "ending": "interrupted"}
        words = ["--resume", "run"]
    assert 0 < steps[0] < steps[1] < steps[2] < STEPS
    done = drn("train", *words)
    assert done.returncode == 0, done.stderr
    assert [resumption["step"] for resumption in resumptions(run)] == steps
    assert_same_run(run, uninterrupted)
    assert_same_best(run, uninterrupted)
    assert read_metrics(run.folder) == read_metrics(uninterrupted.folder)


IN_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_writes_a_checkpoint_when_the_terminal_closes(drn, recipe_file, run, until, gpus):
    """The kernel sends SIGHUP, and every later write to the terminal fails."""
    ours, theirs = os.openpty()
    start = ("env", "--default-signal=HUP", sys.executable, "-c", IN_A_TERMINAL, *drn.start)
    words = ("train", recipe_file, "data.workers=1", "--gpus", str(gpus), "--run-dir", "run")
    running = type(drn)(drn.cwd, start).begin(*words, terminal=theirs)
    os.close(theirs)
    os.set_blocking(ours, False)

    def is_trained() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 65536)
        return last_logged_step(run) > 0 or running.poll() is not None

    until(is_trained)
    os.close(ours)
    assert running.wait(300) == 128 + signal.SIGHUP
    assert 0 < content(run)["progress"]["steps"] < STEPS


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_ignores_sighup_under_nohup(drn, recipe_file, run, wait_until_training, gpus):
    drn = type(drn)(drn.cwd, ("env", "--ignore-signal=HUP", *drn.start))
    words = ("train", recipe_file, "data.workers=1", "--gpus", gpus, "--run-dir", "run")
    running = drn.begin(*map(str, words))
    wait_until_training(running, run)
    for process in (running.pid, *rank_pids(running).values()):
        os.killpg(process, signal.SIGHUP)
    code, _, err = wait_for_end(running)
    assert code == 0, err
    assert content(run)["progress"]["steps"] == STEPS


# Two processes.


@pytest.fixture(scope="module")
def uninterrupted_in_two(drn_in, recipe_file, tmp_path_factory) -> Run:
    """The whole training in two processes; tests only read it."""
    cwd = tmp_path_factory.mktemp("uninterrupted")
    done = drn_in(cwd)("train", recipe_file, *IN_TWO, "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    return Run(cwd / "run")


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(
    drn, recipe_file, uninterrupted_in_two, run, wait_until_training, read_metrics
):
    """A signal to the launcher, then one rank killed, then a signal to one rank."""
    first = drn.begin("train", recipe_file, *IN_TWO, "--run-dir", "run", "--json")
    wait_until_training(first, run)
    first.send_signal(signal.SIGUSR1)
    code, out, err = wait_for_end(first)
    assert code == 138, err
    assert err.count("SIGUSR1: stopping after this step") == 1 and not errors(err)
    summary = json.loads(out)
    assert (summary["state"], summary["signal"]) == ("interrupted", "SIGUSR1")
    assert summary["last_checkpoint"] == "run/checkpoints/last.pt"

    second = drn.begin("train", "--resume", "run", "--gpus", "2")
    wait_until_training(second, run, resumed=1)
    os.kill(rank_pids(second)[1], signal.SIGKILL)
    code, _, err = wait_for_end(second)
    assert code == 1
    assert errors(err)[-1] == "error: rank 1 was killed by SIGKILL -> out of memory?"

    third = drn.begin("train", "--resume", "run", "--gpus", "2")
    wait_until_training(third, run, resumed=2)
    os.kill(rank_pids(third)[1], signal.SIGTERM)
    code, _, err = wait_for_end(third)
    assert code == 143, err
    assert err.count("resume with: drn train --resume run") == 1 and not errors(err)

    done = drn("train", "--resume", "run", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    assert_same_run(run, uninterrupted_in_two)
    assert_same_best(run, uninterrupted_in_two)
    assert read_metrics(run.folder) == read_metrics(uninterrupted_in_two.folder)


@pytest.mark.slow
def test_a_job_restarts_after_kills_and_ends_with_the_same_weights(
    drn, recipe_file, uninterrupted_in_two, run, wait_until_training, read_metrics
):
    """Rank 1 is killed first; later rank 0, which writes the run directory."""
    running = drn.begin("train", recipe_file, *IN_TWO, "--max-restarts", "3", "--run-dir", "run")
    for times, (rank, step) in enumerate([(1, 3), (0, 6)]):
        wait_until_training(running, run, resumed=times, step=step)
        os.kill(rank_pids(running)[rank], signal.SIGKILL)
    code, _, err = wait_for_end(running)
    assert code == 0, err
    assert err.count("was killed by SIGKILL; restarting all processes") == 2
    assert len(resumptions(run)) == 2
    assert_same_run(run, uninterrupted_in_two)
    assert_same_best(run, uninterrupted_in_two)
    assert read_metrics(run.folder) == read_metrics(uninterrupted_in_two.folder)
    assert sorted(path.name for path in run.last.parent.iterdir()) == [
        "best.safetensors",
        "last.pt",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_rank_without_progress_is_named_and_killed(
    drn, recipe_file, uninterrupted_in_two, run, wait_until_training, restarts
):
    """A process stopped by SIGSTOP does not end; only the timeout reveals it."""
    running = drn.begin(
        *("train", recipe_file, *IN_TWO, "train.timeout=10", "data.workers=1"),
        *("--max-restarts", str(restarts), "--run-dir", "run"),
    )
    wait_until_training(running, run, step=2)
    os.kill(rank_pids(running)[1], signal.SIGSTOP)
    code, _, err = wait_for_end(running)
    line = r"rank 1 has made no progress for \d+ s \(last: step \d, [a-z ]+\)"
    if restarts:
        assert code == 0 and not errors(err), err
        assert re.search(rf"{line}; restarting all processes \(1 of 1\)", err)
        assert_same_best(run, uninterrupted_in_two)
    else:
        assert code == 1
        [error] = errors(err)
        assert re.search(line, error) and "train.timeout" in error


@pytest.mark.slow
def test_a_job_with_a_stopped_rank_ends_on_sigterm(drn, recipe_file, run, wait_until_training):
    running = drn.begin("train", recipe_file, *IN_TWO, "--run-dir", "run")
    wait_until_training(running, run, step=2)
    os.kill(rank_pids(running)[1], signal.SIGSTOP)
    running.send_signal(signal.SIGTERM)
    code, _, err = wait_for_end(running)
    assert code == 128 + signal.SIGTERM
    assert "rank 1 is suspended, and cannot handle SIGTERM" in err and not errors(err)


# Full disks.


@contextmanager
def paused(running: Process) -> Iterator[None]:
    running.send_signal(signal.SIGSTOP)
    yield
    running.send_signal(signal.SIGCONT)


def assert_saving_failed(
    running: Process, run: Run, folder: str | Path, reason: str, kept: bytes
) -> None:
    code, _, err = wait_for_end(running)
    assert code == 1
    [error] = errors(err)
    assert f"last.pt: cannot be written: {reason}; the earlier checkpoint of step 0 is" in error
    assert f"then resume: drn train --resume {folder}" in error
    assert run.last.read_bytes() == kept
    assert [path.name for path in run.last.parent.iterdir()] == ["last.pt"]


def test_resumes_after_a_file_size_limit(drn, recipe_file, uninterrupted, run, until):
    """The limit stands for a quota, which is raised before the run is resumed."""
    running = drn.begin("train", recipe_file, "--run-dir", "run")
    until(lambda: run.last.is_file() or running.poll() is not None)
    with paused(running):
        resource.prlimit(
            running.pid, resource.RLIMIT_FSIZE, (BELOW_CHECKPOINT, resource.RLIM_INFINITY)
        )
        kept = run.last.read_bytes()
    assert_saving_failed(running, run, "run", "File too large", kept)
    done = drn("train", "--resume", "run")
    assert done.returncode == 0, done.stderr
    assert_same_run(run, uninterrupted)
    assert_same_best(run, uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with space for a few checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_keeps_the_earlier_checkpoint_on_a_full_disk(drn, recipe_file, small_disk, until):
    run = Run(small_disk / "run")
    running = drn.begin("train", recipe_file, "--run-dir", run.folder)
    until(lambda: run.last.is_file() or running.poll() is not None)
    with paused(running), (small_disk / "other.bin").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - BELOW_CHECKPOINT)
        kept = run.last.read_bytes()
    assert_saving_failed(running, run, run.folder, "No space left on device", kept)
    assert torch.load(run.last, weights_only=True)["progress"]["steps"] == 0


# Non-finite losses.


def test_stops_after_consecutive_non_finite_losses_and_names_the_images(
    drn, recipe_file, run, read_metrics
):
    done = drn(
        *("train", recipe_file, "--run-dir", "run", "--gpus", "2"),
        *("train.lr=1e9", "train.max_skipped=3", "train.log_every=1", "train.eval_every=4"),
    )
    assert done.returncode == 1
    [error] = errors(done.stderr)
    assert "train: non-finite loss in 3 consecutive steps up to step" in error
    assert error.count("images/") == 4
    assert "a train.lr below 1e+09" in error and "run/checkpoints/last.pt" in error
    assert "non-finite loss: 1 steps skipped since the last log line" in done.stderr
    skipped = [line["skipped"] for line in read_metrics(run.folder) if line["kind"] == "train"]
    assert skipped[-2:] == [1, 2]
    tensors = content(run)["model"].values()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)


def train_with_nan_in_rank_1(
    group: Group, recipe_file: Path, folder: Path
) -> list[dict[str, torch.Tensor]]:
    """Train an epoch of three steps; the logits of the second are NaN in rank 1.

    Returns:
        Weights, statistics and momentum before the first step and after each.
    """
    training = prepare_in(group, recipe_file, ("train.epochs=1", "train.log_every=1"))
    runner = training.runner
    states: list[dict[str, torch.Tensor]] = []

    def keep_state() -> None:
        state = {key: tensor.clone() for key, tensor in training.model.state_dict().items()}
        for number, buffers in training.optimiser.state_dict()["state"].items():
            state[f"momentum {number}"] = buffers["momentum_buffer"].clone()
        states.append(state)

    def run(images: torch.Tensor) -> torch.Tensor:
        keep_state()
        return runner(images) * (torch.nan if len(states) == 2 and group.rank == 1 else 1.0)

    training.runner = run
    go(training, Run(folder))
    keep_state()
    return states


def test_all_ranks_skip_a_step_whose_loss_is_nan_in_one(spawn, recipe_file, run, read_metrics):
    both = spawn(train_with_nan_in_rank_1, 2, recipe_file, run.folder)
    for _, first, second, third in both:
        for key in first:
            if not key.endswith("num_batches_tracked"):
                assert torch.equal(first[key], second[key]), key
        assert not torch.equal(second["head.weight"], third["head.weight"])
    for key, tensor in both[0][-1].items():
        assert torch.equal(tensor, both[1][-1][key]), key
    lines = [line for line in read_metrics(run.folder) if line["kind"] == "train"]
    assert [line["skipped"] for line in lines] == [0, 1, 1]
    assert [line["loss"] is None for line in lines] == [False, True, False]


# Out of memory.


def memory_of(running: Process) -> int:
    """Return the size of a process's address space in bytes; 0 after its end."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmSize:")]
    return int(sizes[0]) * 1024 if sizes else 0


def limit_memory(running: Process, limit: int) -> None:
    resource.prlimit(running.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def test_out_of_memory_in_training_suggests_settings(drn, recipe_file, run, until):
    wide = ("model.width=1", "augment.crop=768")
    running = drn.begin("train", recipe_file, *wide, "--run-dir", "run")
    until(lambda: run.last.is_file() or running.poll() is not None)
    limit_memory(running, memory_of(running) + 300 * MIB)
    code, _, err = wait_for_end(running)
    assert code == 1
    [error] = errors(err)
    assert "out of memory in training: 4 crops of 768 need about" in error
    assert "try train.accumulate=2" in error
    assert content(run)["progress"]["steps"] == 0


def test_out_of_memory_in_validation_switches_to_tiles(
    drn, recipe_file, own_data_folder, run, until, monkeypatch
):
    random = np.random.default_rng(0)
    # The first and the last image are validated before step 0; this one is not.
    name = (own_data_folder / "val_images.txt").read_text().split()[1]
    for folder, shape in (("images", (1152, 1152, 3)), ("labels", (1152, 1152))):
        noise = random.integers(0, 3, shape, dtype=np.uint8)
        Image.fromarray(noise).save(own_data_folder / folder / Path(name).name)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # others reserve addresses that stay unused
    running = drn.begin(
        *("train", recipe_file, f"data.root={own_data_folder}", "model.width=1"),
        *("augment.crop=32", "train.epochs=1", "--run-dir", "run", "--no-report"),
    )
    sizes: list[int] = []

    def is_trained() -> bool:
        sizes.append(memory_of(running))
        return run.metrics.is_file() or running.poll() is not None

    until(is_trained)
    # The last size but one is from before the validation, which takes 330 MiB for the whole image.
    limit_memory(running, sizes[-2] + 220 * MIB)
    code, _, err = wait_for_end(running)
    assert code == 0, err
    assert "out of memory: using overlapping tiles of" in err
    assert json.loads(run.scores.read_text())["images"] == 5


# Concurrent runs.


def test_two_concurrent_commands_make_two_runs_or_one_fails(drn, recipe_file, tmp_path):
    command = ("train", recipe_file, "train.epochs=1")
    ended = [wait_for_end(running) for running in [drn.begin(*command), drn.begin(*command)]]
    codes = sorted(code for code, *_ in ended)
    assert codes in ([0, 0], [0, 1]), ended
    for code, _, err in ended:
        assert len(errors(err)) == code
        assert all("another process is training in it" in error for error in errors(err))
    folders = list((tmp_path / "runs" / "easy").iterdir())
    assert len(folders) == codes.count(0)
    for folder in folders:
        assert content(Run(folder))["progress"]["steps"] == 3
        assert Run(folder).best.is_file()
