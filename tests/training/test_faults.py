"""Real processes that are told to stop, killed, out of disk or memory, or fed nonsense."""

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
from drn_cli.training import loop
from drn_cli.training.setup import TrainState
from drn_cli.training.step import take_step

MIB = 2**20
# Of two processes: nine steps, with a checkpoint and a line of metrics for most of them.
IN_TWO = ("train.epochs=3", "train.save_every_steps=2", "train.log_every=1")

Process = subprocess.Popen[str]
UnderWay = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def measured(run: Run) -> int:
    """Give the last step that a line of metrics tells of."""
    if not run.metrics.is_file():
        return 0
    whole = run.metrics.read_text().rpartition("\n")[0]
    return max([json.loads(line)["step"] for line in whole.splitlines()], default=0)


def resumptions(run: Run) -> list[dict[str, Any]]:
    resumed: list[dict[str, Any]] = json.loads(run.environment.read_text())["resumed"]
    return resumed


@pytest.fixture
def under_way(until: Callable[[Callable[[], Any]], Any]) -> UnderWay:
    """Wait until a process, or a job, trains: from then on it heeds signals."""

    def wait(running: Process, run: Run, resumed: int = 0, step: int = 0) -> None:
        def training() -> bool:
            if running.poll() is not None:
                pytest.fail(f"left with {running.returncode}: {running.communicate()[1]}")
            if not run.environment.is_file() or len(resumptions(run)) != resumed:
                return False
            return measured(run) >= step

        until(training)

    return wait


def processes_of(launcher: Process) -> dict[int, int]:
    """Find the processes of a job: their ids by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_text().split("\0")
        except OSError:  # it is gone
            continue
        ranks = [int(word[5:]) for word in variables if word.startswith("RANK=")]
        if parent == launcher.pid and ranks:
            found[ranks[0]] = int(folder.name)
    return found


def ended(running: Process) -> tuple[int, str, str]:
    out, err = running.communicate(timeout=300)
    # Of ours: the tool that measures coverage may have one when a process is ended at its end.
    assert not re.search(r'File ".*/drn_cli/', err), err
    return running.returncode, out, err


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error:")]


# Signals.


@pytest.mark.slow
def test_each_signal_ends_a_step_with_a_checkpoint_and_a_code_of_its_own(
    drn, recipe_file, trained, run, under_way, read_metrics
):
    """Stopped three times, the run is the one that never stopped; two processes read for it."""
    words = [recipe_file, "data.workers=2", "--run-dir", "run"]
    steps = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)):
        running = drn.begin("train", *words)
        under_way(running, run, resumed=len(steps))
        if number == signal.SIGINT:  # as a terminal does: to the reading processes as well
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        returned, out, err = ended(running)
        assert (returned, out) == (code, ""), err
        assert err.count(f"{number.name}: stopping after this step") == 1
        assert err.count("interrupted; checkpoint run/checkpoints/last.pt") == 1
        assert err.count("go on with: drn train --resume run") == 1
        assert not errors(err)
        steps.append(content(run)["progress"]["steps"])
        end = read_metrics(run.folder)[-1]
        assert end == {"kind": "end", "step": steps[-1], "ending": "interrupted"}
        words = ["--resume", "run"]
    assert 0 < steps[0] < steps[1] < steps[2] < 12
    done = drn("train", *words)
    assert done.returncode == 0, done.stderr
    assert [resumption["step"] for resumption in resumptions(run)] == steps
    assert_same_run(run, Run(trained.folder))
    assert_same_best(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


IN_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_closed_terminal_ends_a_step_with_a_checkpoint(drn, recipe_file, run, until, gpus):
    """The kernel sends SIGHUP, and from then on whatever is printed is an error."""
    ours, theirs = os.openpty()
    start = ("env", "--default-signal=HUP", sys.executable, "-c", IN_A_TERMINAL, *drn.start)
    words = ("train", recipe_file, "data.workers=1", "--gpus", str(gpus), "--run-dir", "run")
    running = type(drn)(drn.cwd, start).begin(*words, terminal=theirs)
    os.close(theirs)
    os.set_blocking(ours, False)

    def is_trained() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 65536)
        return measured(run) > 0 or running.poll() is not None

    until(is_trained)
    os.close(ours)
    assert running.wait(300) == 128 + signal.SIGHUP
    assert 0 < content(run)["progress"]["steps"] < 12


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_nohup_outlives_a_closed_terminal(drn, recipe_file, run, under_way, gpus):
    drn = type(drn)(drn.cwd, ("env", "--ignore-signal=HUP", *drn.start))
    words = ("train", recipe_file, "data.workers=1", "--gpus", gpus, "--run-dir", "run")
    running = drn.begin(*map(str, words))
    under_way(running, run)
    for process in (running.pid, *processes_of(running).values()):
        os.killpg(process, signal.SIGHUP)
    code, _, err = ended(running)
    assert code == 0, err
    assert content(run)["progress"]["steps"] == 12


# Jobs of two processes.


@pytest.fixture(scope="module")
def undisturbed(drn_in, recipe_file, tmp_path_factory) -> Run:
    """The run of two processes that nothing happens to; it is only read."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    done = drn_in(cwd)("train", recipe_file, *IN_TWO, "--gpus", "2", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    return Run(cwd / "run")


@pytest.mark.slow
def test_two_processes_stop_as_one_and_go_on(
    drn, recipe_file, undisturbed, run, under_way, read_metrics
):
    """Told to stop through the launcher, then one of them killed, then one told to stop."""
    first = drn.begin("train", recipe_file, *IN_TWO, "--gpus", "2", "--run-dir", "run", "--json")
    under_way(first, run)
    first.send_signal(signal.SIGUSR1)
    code, out, err = ended(first)
    assert code == 138, err
    assert err.count("SIGUSR1: stopping after this step") == 1 and not errors(err)
    told = json.loads(out)
    assert (told["state"], told["signal"]) == ("interrupted", "SIGUSR1")
    assert told["last_checkpoint"] == "run/checkpoints/last.pt"

    second = drn.begin("train", "--resume", "run", "--gpus", "2")
    under_way(second, run, resumed=1)
    os.kill(processes_of(second)[1], signal.SIGKILL)
    code, _, err = ended(second)
    assert code == 1
    assert errors(err)[-1] == "error: process 1 was ended by SIGKILL -> was memory short?"

    third = drn.begin("train", "--resume", "run", "--gpus", "2")
    under_way(third, run, resumed=2)
    os.kill(processes_of(third)[1], signal.SIGTERM)
    code, _, err = ended(third)
    assert code == 143, err
    assert err.count("go on with: drn train --resume run") == 1 and not errors(err)

    done = drn("train", "--resume", "run", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    assert_same_run(run, undisturbed)
    assert_same_best(run, undisturbed)
    assert read_metrics(run.folder) == read_metrics(undisturbed.folder)


@pytest.mark.slow
def test_killed_twice_a_job_ends_by_itself_at_the_same_weights(
    drn, recipe_file, undisturbed, run, under_way, read_metrics
):
    """First the one that only computes is killed, later the one that writes as well."""
    running = drn.begin(
        *("train", recipe_file, *IN_TWO, "--gpus", "2", "--max-restarts", "3"),
        *("--run-dir", "run"),
    )
    for times, (rank, step) in enumerate([(1, 3), (0, 6)]):
        under_way(running, run, resumed=times, step=step)
        os.kill(processes_of(running)[rank], signal.SIGKILL)
    code, _, err = ended(running)
    assert code == 0, err
    assert err.count("was ended by SIGKILL; all start again") == 2
    assert len(resumptions(run)) == 2
    assert_same_run(run, undisturbed)
    assert_same_best(run, undisturbed)
    assert read_metrics(run.folder) == read_metrics(undisturbed.folder)
    assert sorted(path.name for path in run.last.parent.iterdir()) == [
        "best.safetensors",
        "last.pt",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_stopped_process_is_named_and_ended(
    drn, recipe_file, undisturbed, run, under_way, restarts
):
    """It is the limit that ends it: nothing else would notice."""
    running = drn.begin(
        *("train", recipe_file, *IN_TWO, "train.timeout=30", "data.workers=1"),
        *("--gpus", "2", "--max-restarts", str(restarts), "--run-dir", "run"),
    )
    under_way(running, run, step=2)
    os.kill(processes_of(running)[1], signal.SIGSTOP)
    code, _, err = ended(running)
    line = r"rank 1 has made no progress for \d+ s \(last: step \d, [a-z ]+\)"
    if restarts:
        assert code == 0 and not errors(err), err
        assert re.search(rf"{line}; all start again \(1 of 1\)", err)
        assert_same_best(run, undisturbed)
    else:
        assert code == 1
        [error] = errors(err)
        assert re.search(line, error) and "train.timeout" in error


@pytest.mark.slow
def test_a_job_with_a_stopped_process_answers_sigterm(drn, recipe_file, run, under_way):
    running = drn.begin("train", recipe_file, *IN_TWO, "--gpus", "2", "--run-dir", "run")
    under_way(running, run, step=2)
    os.kill(processes_of(running)[1], signal.SIGSTOP)
    running.send_signal(signal.SIGTERM)
    code, _, err = ended(running)
    assert code == 128 + signal.SIGTERM
    assert "rank 1 is stopped, and cannot answer SIGTERM" in err and not errors(err)


# A full disk.


@contextmanager
def held(running: Process) -> Iterator[None]:
    """Let a process wait meanwhile."""
    running.send_signal(signal.SIGSTOP)
    yield
    running.send_signal(signal.SIGCONT)


def assert_saving_failed(
    running: Process, run: Run, folder: str | Path, reason: str, kept: bytes
) -> None:
    code, _, err = ended(running)
    assert code == 1
    [error] = errors(err)
    assert f"last.pt: cannot be written: {reason}; the earlier checkpoint of step 0" in error
    assert f"go on with: drn train --resume {folder}" in error
    assert run.last.read_bytes() == kept
    assert [path.name for path in run.last.parent.iterdir()] == ["last.pt"]


def test_a_file_that_may_not_grow_costs_nothing(drn, recipe_file, trained, run, until):
    """The limit stands for a quota; it is lifted, and the run goes on."""
    running = drn.begin("train", recipe_file, "--run-dir", "run")
    until(lambda: run.last.is_file() or running.poll() is not None)
    with held(running):
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
        kept = run.last.read_bytes()
    assert_saving_failed(running, run, "run", "File too large", kept)
    done = drn("train", "--resume", "run")
    assert done.returncode == 0, done.stderr
    assert_same_run(run, Run(trained.folder))
    assert_same_best(run, Run(trained.folder))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, with room for three checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(drn, recipe_file, small_disk, until):
    run = Run(small_disk / "run")
    running = drn.begin("train", recipe_file, "--run-dir", run.folder)
    until(lambda: run.last.is_file() or running.poll() is not None)
    with held(running), (small_disk / "other.bin").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - 20 * MIB)
        kept = run.last.read_bytes()
    assert_saving_failed(running, run, run.folder, "No space left on device", kept)
    assert torch.load(run.last, weights_only=True)["progress"]["steps"] == 0


# Numbers that are not finite.


def test_a_run_without_finite_steps_stops_and_names_the_images(drn, recipe_file, run, read_metrics):
    done = drn(
        *("train", recipe_file, "--run-dir", "run", "--gpus", "2"),
        *("train.lr=1e9", "train.max_skipped=3", "train.log_every=1", "train.eval_every=4"),
    )
    assert done.returncode == 1
    [error] = errors(done.stderr)
    assert "the loss is not finite: 3 steps in a row were skipped" in error
    assert error.count("images/") == 4
    assert "a lower train.lr than 1e+09" in error and "run/checkpoints/last.pt" in error
    assert "the loss was not finite: 1 of the last steps skipped" in done.stderr
    skipped = [line["skipped"] for line in read_metrics(run.folder) if line["kind"] == "train"]
    assert skipped[-2:] == [1, 2]
    tensors = content(run)["model"].values()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)


def learn_with_poison(
    group: Group, recipe_file: Path, folder: Path
) -> list[tuple[dict[str, Any], dict[Any, Any], list[float]]]:
    """Train; the second step's logits are not finite in one of the processes.

    Give weights and statistics, the optimiser's state and the meter after each step.
    """
    training = prepare_in(group, recipe_file, ("train.epochs=1", "train.log_every=1"))
    runner = training.runner
    after: list[Any] = []

    def step(training: TrainState, passes: Any, rate: float, number: int, meter: Any) -> None:
        poison = torch.nan if number == 1 and group.rank == 1 else 1.0
        training.runner = lambda images: runner(images) * poison
        take_step(training, passes, rate, number, meter)
        state = training.model.state_dict(), training.optimiser.state_dict()["state"]
        after.append(
            [
                {key: value.clone() for key, value in state[0].items()},
                {key: value["momentum_buffer"].clone() for key, value in state[1].items()},
                meter.read(),
            ]
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "take_step", step)
        go(training, Run(folder))
    return after


def test_a_poisoned_step_of_one_process_is_skipped_by_all(spawn, recipe_file, run, read_metrics):
    both = spawn(learn_with_poison, 2, recipe_file, run.folder)
    for one, two, three in both:
        counters = {key for key in one[0] if key.endswith("num_batches_tracked")}
        for key in one[0].keys() - counters:
            assert torch.equal(one[0][key], two[0][key]), key
        assert one[1] and all(torch.equal(one[1][key], two[1][key]) for key in one[1])
        assert not torch.equal(two[0]["head.weight"], three[0]["head.weight"])
        assert [numbers[3:] for *_, numbers in (one, two, three)] == [[0, 0], [1, 1], [1, 0]]
    for key, weights in both[0][-1][0].items():
        assert torch.equal(weights, both[1][-1][0][key]), key
    lines = [line for line in read_metrics(run.folder) if line["kind"] == "train"]
    assert [line["skipped"] for line in lines] == [0, 1, 1]
    assert [line["loss"] is None for line in lines] == [False, True, False]


# Short memory.


def memory_of(running: Process) -> int:
    """Give the bytes that a process has; 0 when it is gone."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    has = [line.split()[1] for line in status.splitlines() if line.startswith("VmSize:")]
    return int(has[0]) * 1024 if has else 0


def limit_memory(running: Process, limit: int) -> None:
    resource.prlimit(running.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def test_short_memory_in_training_names_what_takes_less(drn, recipe_file, run, until):
    running = drn.begin("train", recipe_file, "augment.crop=768", "--run-dir", "run")
    until(lambda: run.last.is_file() or running.poll() is not None)
    limit_memory(running, memory_of(running) + 300 * MIB)
    code, _, err = ended(running)
    assert code == 1
    [error] = errors(err)
    assert "out of memory in training: 4 crops of 768 take about" in error
    assert "try train.accumulate=2" in error
    assert content(run)["progress"]["steps"] == 0


def test_short_memory_in_validation_is_no_end(
    drn, recipe_file, own_data_folder, run, until, monkeypatch
):
    """An image far larger than the crops is seen in tiles."""
    random = np.random.default_rng(0)
    name = (own_data_folder / "val_images.txt").read_text().split()[1]  # not tried before step 0
    for folder, shape in (("images", (1536, 1536, 3)), ("labels", (1536, 1536))):
        noise = random.integers(0, 3, shape, dtype=np.uint8)
        Image.fromarray(noise).save(own_data_folder / folder / Path(name).name)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # others would take addresses that nobody uses
    running = drn.begin(
        *("train", recipe_file, f"data.root={own_data_folder}", "train.epochs=1"),
        *("--run-dir", "run"),
    )
    trained = 0

    def is_trained() -> bool:
        nonlocal trained
        now = memory_of(running)
        if run.metrics.is_file() or running.poll() is not None:
            return True
        trained = now  # surely before the validation
        return False

    until(is_trained)
    # The whole image was seen to take 580 MiB.
    limit_memory(running, trained + 350 * MIB)
    code, _, err = ended(running)
    assert code == 0, err
    assert "out of memory: using overlapping tiles of" in err
    assert json.loads(run.scores.read_text())["images"] == 5


# Two at once.


def test_the_same_command_twice_at_once_makes_two_runs_or_a_line(drn, recipe_file, tmp_path):
    command = ("train", recipe_file, "train.epochs=1")
    told = [ended(running) for running in [drn.begin(*command), drn.begin(*command)]]
    codes = sorted(code for code, *_ in told)
    assert codes in ([0, 0], [0, 1]), told
    for code, _, err in told:
        assert len(errors(err)) == code
        assert all("another process is training in it" in error for error in errors(err))
    folders = list((tmp_path / "runs" / "easy").iterdir())
    assert len(folders) == codes.count(0)
    for folder in folders:
        assert content(Run(folder))["progress"]["steps"] == 3
        assert Run(folder).best.is_file()
