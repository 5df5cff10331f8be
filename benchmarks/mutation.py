"""Mutation testing of the modules where a wrong result would go unnoticed longest.

    pip install cosmic-ray
    python benchmarks/mutation.py [--sample 40] [--seed 0] [--modules window confusion ...]

Changes one operator, number or comparison of a module at a time, in a copy of the project, and runs
the tests of that module, which have to pass without a change. A mutant that no test notices has
survived: its diff is printed. A survivor is either equivalent (no input gives another result) or
shows a test that is missing.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

PROJECT = Path(__file__).resolve().parents[1]
# Each module, and the tests that have to notice a change of it.
MODULES = {
    "window": ("drn_cli/data/window.py", "tests/data/test_window.py tests/data/test_augment.py"),
    "confusion": ("drn_cli/evaluation/confusion.py", "tests/evaluation/test_confusion.py"),
    "group": ("drn_cli/distributed/group.py", "tests/distributed/test_group.py"),
    "step": (
        "drn_cli/training/step.py",
        "tests/training/test_step.py "
        "tests/training/test_loop.py::test_two_processes_train_what_one_does",
    ),
    "checkpoint": (
        "drn_cli/training/checkpoint.py",
        "tests/training/test_checkpoint.py tests/training/test_saving.py",
    ),
}
# Type annotations and decorators are left out: no test has to notice a change of them.
LEFT_OUT = ("RemoveDecorator", "BinaryOperator_BitOr", "VariableInserter", "VariableReplacer")
TIMEOUT = 120  # seconds for the tests of one mutant; a loop without end counts as noticed

CONFIG = """
[cosmic-ray]
module-path = "{module}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def mutate(name: str, project: Path, count: int, seed: int) -> tuple[int, list[str]]:
    """Run the tests on a sample of a module's mutants.

    Returns:
        How many mutants ran, and the diff of each that survived.
    """
    module, tests = MODULES[name]
    lines = (project / module).read_text().splitlines()
    config, session = project / f"{name}.toml", project / f"{name}.sqlite"
    config.write_text(
        CONFIG.format(module=module, tests=tests, timeout=TIMEOUT, python=sys.executable)
    )
    command = [sys.executable, "-m", "cosmic_ray.cli"]
    # Processes that tests start import the copy, too.
    run = partial(
        subprocess.run, cwd=project, check=True, env={**os.environ, "PYTHONPATH": str(project)}
    )
    run([*command, "init", config.name, session.name])
    run([*command, "baseline", config.name])
    with use_db(session, WorkDB.Mode.open) as database:
        items = sorted(
            (item.mutations[0].start_pos, item.mutations[0].operator_name, item.job_id)
            for item in database.work_items
            if not any(word in item.mutations[0].operator_name for word in LEFT_OUT)
            and not lines[item.mutations[0].start_pos[0] - 1].startswith("@")
        )
        chosen = random.Random(seed).sample(items, min(count, len(items)))
        kept = {job for _, _, job in chosen}
        skipped = [item.job_id for item in database.work_items if item.job_id not in kept]
        database.set_multiple_results(skipped, WorkResult(WorkerOutcome.SKIPPED))
    run([*command, "exec", config.name, session.name])
    with use_db(session, WorkDB.Mode.open) as database:
        survivors = [
            result.diff or ""
            for _, result in database.results
            if result.test_outcome == TestOutcome.SURVIVED
        ]
    return len(kept), survivors


def copy_project(folder: Path) -> Path:
    """Copy the tracked files, for mutants to be written into."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, target)
    return folder


def main() -> None:
    """Print the survivors of each module, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--modules", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = []
    for name in asked.modules:
        with tempfile.TemporaryDirectory() as scratch:
            project = copy_project(Path(scratch))
            total, survivors = mutate(name, project, asked.sample, asked.seed)
        print(f"== {MODULES[name][0]}", *survivors, sep="\n", flush=True)
        rows.append((MODULES[name][0], total, total - len(survivors)))
    print(f"{'module':36} {'mutants':>8} {'noticed':>8}")
    for module, total, noticed in rows:
        print(f"{module:36} {total:8} {noticed:8}")


if __name__ == "__main__":
    main()
