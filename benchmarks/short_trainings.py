"""Run many short trainings with data loader workers, and report every one that dies or hangs.

    python benchmarks/short_trainings.py --mode fresh --trainings 200 --parallel 2
    python benchmarks/short_trainings.py --mode repeated --trainings 300 --per-process 25
    python benchmarks/short_trainings.py --mode pytest --trainings 100 --parallel 2 --strace

fresh: each training in a process of its own; repeated: many in one process, one after the other;
pytest: the test `tests/training/test_loop.py::test_seed_decides`, with coverage, in a pytest-xdist
process, as the complete test run has it. Each training takes a few steps on tiny images, with two
data loader workers, and validates and writes checkpoints each epoch.

Every process runs under faulthandler, may write a core file (RLIMIT_CORE), and leads a session. One
that is not done within `--limit` seconds prints the stacks of its threads, gets SIGABRT and counts
as a hang. A process that ends with exit code 0 but did not finish its trainings counts as vanished.
With `--strace`, the signals and exits of all its processes are recorded, with who sent what. The
folder of every process that failed is kept: log, core and strace files, and what it trained.

Prints a line for each failure, at the end a table, and `--json FILE` writes the same. The exit code
is 1 if anything failed. Several hundred run for an hour or more: start it in the background,

    nohup python benchmarks/short_trainings.py --trainings 400 > short_trainings.log 2>&1 &
"""

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEST = "tests/training/test_loop.py::test_seed_decides"
DONE = "training done: "  # a line of a worker's log for each training
TRACED = "trace=exit,exit_group,kill,tkill,tgkill,rt_sigqueueinfo,rt_tgsigqueueinfo"
DYING = 20  # seconds for a process that hangs to print its stacks and dump its core


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended.

    Attributes:
        ending: `finished`, `hang`, `vanished`, `exit N`, or the name of a signal.
        trainings: How many it finished.
        folder: What it left, if it failed.
    """

    ending: str
    trainings: int
    seconds: float
    folder: str | None


def make_data(folder: Path) -> Path:
    """Create the data folder and the recipe of all trainings."""
    import yaml

    from drn_cli.data.prepare.scenes import make_scenes

    make_scenes(folder / "data", train=12, val=5, test=0, width=64, height=48)
    recipe = {
        "task": "segmentation",
        "model": {"arch": "drn_a_18"},
        "data": {"root": str(folder / "data"), "classes": 19, "workers": 2},
        "augment": {"crop": 32, "scale": 1.2, "rotate": 5, "flip": True},
        "train": {"epochs": 2, "batch_size": 4, "lr": 0.0007},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def work(recipe_file: Path, overrides: Sequence[str], trainings: int, limit: float) -> None:
    """Train repeatedly in this process, in the current folder."""
    import faulthandler

    import torch

    from drn_cli.distributed.group import Group
    from drn_cli.recipe.loading import load_recipe
    from drn_cli.runs import Run
    from drn_cli.training.loop import train
    from drn_cli.training.resuming import RunPlan
    from drn_cli.training.setup import build_train_state
    from drn_cli.training.tasks import task_of

    torch.set_num_threads(1)
    faulthandler.enable(all_threads=True)
    for number in range(trainings):
        faulthandler.dump_traceback_later(limit, exit=False)
        recipe = load_recipe(str(recipe_file), overrides).recipe
        training = build_train_state(
            recipe, task_of(recipe).load_data(recipe), Group(0, 1, torch.device("cpu"))
        )
        run = Run(Path(f"run_{number}"))
        train(training, RunPlan(run, "short", recipe))
        if not run.last.is_file() or not run.best.is_file():
            raise RuntimeError(f"{run.folder}: a training ended without its checkpoints")
        shutil.rmtree(run.folder)
        print(f"{DONE}{number}", flush=True)
    faulthandler.cancel_dump_traceback_later()


def command_of(args: argparse.Namespace, recipe: Path, folder: Path, trainings: int) -> list[str]:
    """Return the command line of a process."""
    if args.mode == "pytest":
        # The plugin prints stacks before the limit of this script ends the process.
        settings = str(ROOT / "pyproject.toml")
        command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", "-n", "1"]
        command += [f"--cov={ROOT / 'drn_cli'}"]
        command += ["-c", settings, f"--rootdir={ROOT}", f"--basetemp={folder / 'tmp'}"]
        command += [f"--cov-config={settings}", "--cov-report=", "--cov-fail-under=0"]
        command += ["-o", f"faulthandler_timeout={args.limit}", str(ROOT / TEST)]
    else:
        command = [sys.executable, "-X", "faulthandler", str(Path(__file__).resolve())]
        command += ["--work", str(recipe), "--trainings", str(trainings)]
        command += ["--limit", str(args.limit), *args.overrides]
    if args.strace:
        command = ["strace", "-f", "-tt", "-e", TRACED, "-o", str(folder / "strace.txt"), *command]
    return command


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process: one thread, and its own coverage files."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "COVERAGE_FILE": str(folder / ".coverage"),
        # A worker whose coverage cannot be saved ends with exit code 1, and says why only here.
        "COVERAGE_DEBUG": "multiproc",
        "COVERAGE_DEBUG_FILE": str(folder / "coverage.txt"),
    }


def run_process(args: argparse.Namespace, recipe: Path, folder: Path, trainings: int) -> Outcome:
    """Start a process, wait within the time limit of its trainings, and return how it ended."""
    folder.mkdir()
    start = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            command_of(args, recipe, folder, trainings),
            # coverage wants the folder of its settings; core files lie where a process is.
            cwd=ROOT if args.mode == "pytest" else folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            # Importing torch takes time as well; the worker itself holds each training to a limit.
            code = child.wait(args.limit * (trainings + 1))
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
            os.killpg(child.pid, signal.SIGABRT)
            try:
                code = child.wait(DYING)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                code = child.wait()
    text = (folder / "log.txt").read_text(errors="replace")
    finished = text.count("1 passed" if args.mode == "pytest" else DONE)
    if hung:
        ending = "hang"
    elif code < 0:
        ending = signal.Signals(-code).name
    elif code > 0:
        ending = f"exit {code}"
    else:
        ending = "finished" if finished == trainings else "vanished"
    good = ending == "finished"
    for core in ROOT.glob("core*"):
        if core.is_file():
            shutil.move(core, folder)
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.monotonic() - start, 1)
    return Outcome(ending, finished, seconds, None if good else str(folder))


def report(mode: str, outcomes: Sequence[Outcome], json_file: Path | None) -> int:
    """Print the table; return the exit code."""
    endings = collections.Counter(outcome.ending for outcome in outcomes)
    times = sorted(outcome.seconds for outcome in outcomes)
    print(f"\n{mode}: {len(outcomes)} processes, {sum(o.trainings for o in outcomes)} trainings")
    if times:
        print(f"seconds a process: median {times[len(times) // 2]}, longest {times[-1]}")
    for ending, count in endings.most_common():
        print(f"  {ending:<12} {count:>5}")
    if json_file is not None:
        found = {
            "mode": mode,
            "endings": dict(endings),
            "processes": [asdict(outcome) for outcome in outcomes],
        }
        json_file.write_text(json.dumps(found, indent=1))
    return int(set(endings) != {"finished"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--mode", choices=("fresh", "repeated", "pytest"), default="fresh")
    parser.add_argument("--trainings", type=int, default=20, help="in all")
    parser.add_argument("--per-process", type=int, default=20, help="in mode repeated")
    parser.add_argument("--parallel", type=int, default=1, help="processes at the same time")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a training")
    parser.add_argument("--strace", action="store_true", help="record signals and exits")
    parser.add_argument("--keep", type=Path, help="where folders of failures go; by default /tmp")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--work", type=Path, metavar="RECIPE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work, args.overrides, args.trainings, args.limit)
        return

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # the processes inherit it
    sys.path.insert(0, str(ROOT))
    folder = Path(tempfile.mkdtemp(prefix="short_trainings_", dir=args.keep))
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    limit = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard} bytes"
    print(f"folder {folder}; core files: {limit}, pattern {pattern}", flush=True)
    recipe = make_data(folder)
    each = args.per_process if args.mode == "repeated" else 1
    shares = [each] * (args.trainings // each)
    shares += [args.trainings % each] if args.trainings % each else []
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def one(number: int) -> None:
        outcome = run_process(args, recipe, folder / f"{number:04}", shares[number])
        with lock:
            outcomes.append(outcome)
            if outcome.folder is not None:
                print(
                    f"process {number}: {outcome.ending} after {outcome.trainings} trainings, "
                    f"{outcome.seconds} s: {outcome.folder}",
                    flush=True,
                )
            elif len(outcomes) % 10 == 0:
                print(f"{len(outcomes)} of {len(shares)} processes ended", flush=True)

    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(one, range(len(shares))))
    code = report(args.mode, outcomes, args.json)
    if code == 0:
        shutil.rmtree(folder)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
