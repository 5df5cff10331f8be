import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.cli.launching import should_launch
from drn_cli.distributed.launch import LaunchOptions

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters.md"


@pytest.fixture
def variables(monkeypatch):
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    return monkeypatch.setenv


def test_a_single_process_launches_nothing(variables):
    assert not should_launch(LaunchOptions())
    assert "RANK" not in os.environ


def test_options_that_launch_processes(variables):
    assert should_launch(LaunchOptions(2))
    assert should_launch(LaunchOptions(max_restarts=1))
    assert should_launch(LaunchOptions(nnodes="2", rdzv_endpoint="head"))


def test_a_process_of_the_job_launches_nothing(variables):
    variables("RANK", "0")
    variables("WORLD_SIZE", "2")
    assert not should_launch(LaunchOptions(2, max_restarts=1))


def test_a_task_of_srun_becomes_a_rank(variables):
    for name, value in SLURM.items():
        variables(name, value)
    assert not should_launch(LaunchOptions("auto" if torch.cuda.device_count() < 2 else 1))
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("1", "2")


@pytest.mark.parametrize("verb", ["train", "eval", "predict"])
@pytest.mark.parametrize("gpus", ["0", "-1", "all", "1.5"])
def test_gpus_is_a_number_or_auto(verb, gpus):
    result = CliRunner().invoke(app, [verb, "x", "--gpus", gpus])
    assert result.exit_code == 2
    assert gpus in result.stderr


def sbatch_scripts() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", CLUSTERS.read_text(), re.DOTALL)
    return [block for block in blocks if block.startswith("#!/bin/bash\n#SBATCH")]


SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.txt
exit $(cat code)
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo node003; echo node004; else echo "$@" > scontrol.txt; fi
"""


@pytest.fixture
def cluster(tmp_path):
    """Fake `srun` and `scontrol`, which record their arguments; `srun` exits with a code."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script: str, code: int) -> subprocess.CompletedProcess:
        for record in ("srun.txt", "scontrol.txt"):
            (tmp_path / record).unlink(missing_ok=True)
        (tmp_path / "code").write_text(str(code))
        job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[003-004]"}
        return subprocess.run(
            ["/bin/bash", "-c", script],
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **job},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("number", [0, 1], ids=["task-per-node", "task-per-gpu"])
def test_sbatch_scripts_of_the_docs(cluster, tmp_path, number):
    script = sbatch_scripts()[number]
    done = cluster(script, 0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    words = (tmp_path / "srun.txt").read_text().splitlines()
    command = words[words.index("drn") + 1 :]
    assert command[0] == "train"
    # Every option exists.
    known = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    options = [word for word in command if word.startswith("--")]
    assert options and all(option in known for option in options)
    if number == 0:
        pairs = dict(pairwise(command))
        assert (pairs["--nnodes"], pairs["--rdzv-id"]) == ("2", "7")
        assert pairs["--rdzv-endpoint"] == "node003:29500"
    assert not (tmp_path / "scontrol.txt").exists()


@pytest.mark.parametrize(("code", "again"), [(138, True), (1, False), (143, False)])
@pytest.mark.parametrize("number", [0, 1], ids=["task-per-node", "task-per-gpu"])
def test_a_job_at_its_time_limit_is_requeued(cluster, tmp_path, number, code, again):
    done = cluster(sbatch_scripts()[number], code)
    assert done.returncode == (0 if again else code)
    assert (tmp_path / "scontrol.txt").exists() == again
    if again:
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"


# Modules that the processes import, and that Python imports to start other processes.
SHADOWED = ("yaml", "torch", "typing_extensions", "numpy", "multiprocessing", "socket", "drn_cli")
MARK = "open('imported', 'a').write(__name__)\nraise SystemExit(99)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "train RECIPE --gpus 2 train.epochs=1 --run-dir run",
        "data prepare pairs --images DATA/images --labels DATA/labels --write-classes c.csv",
        "doctor",
    ],
    ids=["workers", "preparation", "doctor"],
)
def test_no_process_imports_from_the_current_folder(
    drn, tmp_path, recipe_file, data_folder, command
):
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text(MARK)
    script = shutil.which("drn") or pytest.skip("drn is not installed here")
    words = command.replace("RECIPE", str(recipe_file)).replace("DATA", str(data_folder)).split()
    done = type(drn)(tmp_path, (script,))(*words)
    assert not (tmp_path / "imported").exists()
    assert "Traceback" not in done.stderr and done.returncode < 2


def test_python_m_imports_nothing_else_from_the_current_folder(drn, tmp_path):
    """`python -m` searches it for `drn_cli` itself, before our first line runs."""
    for name in ("typer", "rich", "torch", "yaml", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text(MARK)
    done = drn("recipes", "list")
    assert (done.returncode, (tmp_path / "imported").exists()) == (0, False), done.stderr
