"""Shared fixtures: a small data folder, a trained run, and real processes."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Set before torch is imported. The number of threads changes the order of sums, and results
# are compared bit for bit, in this process and in those that the tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import yaml
from PIL import Image

CLASSES = ("red", "green", "blue")
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
TRAIN, VAL = 12, 5  # odd, so that two processes get unequal shards
TIMEOUT = 300  # seconds; processes should take a few


def easy_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a 64x48 image whose colors are its classes, and its label map with some void."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, len(CLASSES), (3, 4))
    label = blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)
    noise = random.normal(0, 12, (48, 64, 3))
    image = np.clip(np.array(COLOURS)[label] + noise, 0, 255).astype(np.uint8)
    label[: random.integers(1, 12)] = 255
    return image, label


def make_data_folder(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for split, seeds in (("train", range(TRAIN)), ("val", range(100, 100 + VAL))):
        for seed in seeds:
            image, label = easy_pair(seed)
            Image.fromarray(image).save(root / "images" / f"{seed}.png")
            Image.fromarray(label).save(root / "labels" / f"{seed}.png")
        for kind, folder in (("images", "images"), ("labels", "labels")):
            lines = "".join(f"{folder}/{seed}.png\n" for seed in seeds)
            (root / f"{split}_{kind}.txt").write_text(lines)
    info = {
        "mean": [0.37, 0.37, 0.37],
        "std": [0.3, 0.31, 0.32],
        "classes": CLASSES,
        "colours": COLOURS,
    }
    (root / "info.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder for tests that only read it."""
    return make_data_folder(tmp_path_factory.mktemp("data") / "easy")


@pytest.fixture
def own_data_folder(data_folder: Path, tmp_path: Path) -> Path:
    """A copy of the data folder that a test may change."""
    return Path(shutil.copytree(data_folder, tmp_path / "own_data"))


def write_recipe(folder: Path, data_folder: Path, width: float) -> Path:
    recipe = {
        "task": "segmentation",
        "model": {"arch": "drn_a_18", "width": width},
        "data": {"root": str(data_folder), "classes": len(CLASSES), "workers": 0},
        "augment": {"crop": 32, "scale": 1.2, "rotate": 5, "flip": True},
        "train": {
            "epochs": 4,
            "batch_size": 4,
            "lr": 0.0007,
            "schedule": {"kind": "poly", "per": "step"},
        },
    }
    path = folder / "easy.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="session")
def recipe_file(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with four epochs of three steps."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), data_folder, 1.0)


# It does not use `recipe_file`, which some modules replace by this fixture.
@pytest.fixture(scope="session")
def thin_recipe_file(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with width 1/16, for tests of the pipeline."""
    return write_recipe(tmp_path_factory.mktemp("thin_recipe"), data_folder, 0.0625)


def environ() -> dict[str, str]:
    """Return the environment of a process: without torchrun's variables and GPUs."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "DRN_DEBUG")}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100", "TERM": "dumb"}


@dataclass(frozen=True)
class Drn:
    """`python -m drn_cli` in another process, started in a folder."""

    cwd: Path
    start: tuple[str, ...] = (sys.executable, "-m", "drn_cli")

    def __call__(self, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*self.start, *map(str, words)],
            cwd=cwd or self.cwd,
            env=environ(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def begin(self, *words: str | Path, terminal: int | None = None) -> subprocess.Popen[str]:
        """Start it without waiting, as leader of a new session and process group."""
        return subprocess.Popen(
            [*self.start, *map(str, words)],
            cwd=self.cwd,
            env=environ(),
            stdin=terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def drn(tmp_path: Path) -> Drn:
    return Drn(tmp_path)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def drn_in_process() -> Run:
    return run_main


@pytest.fixture
def drn_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`drn` in this process, in an empty folder, without a GPU, for a terminal of 80 columns."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return run_main


def run_main(*words: str | Path) -> tuple[int, str, str]:
    """Run the console script `drn` in this process; return exit code, stdout and stderr."""
    from drn_cli.cli.app import main

    logger, environ = logging.getLogger("drn_cli"), dict(os.environ)
    logs = logger.level, logger.propagate, list(logger.handlers)
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    argv, sys.argv = sys.argv, ["drn", *map(str, words)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environ)
        logger.setLevel(logs[0])
        logger.propagate, logger.handlers = logs[1:]
    printed = []
    for stream in (stdout, stderr):
        stream.flush()
        printed.append(stream.buffer.getvalue().decode())
    return code, *printed


@pytest.fixture(scope="session")
def drn_in() -> type[Drn]:
    """The class of `drn`, for fixtures that start it in another folder."""
    return Drn


@pytest.fixture
def torchrun(tmp_path: Path) -> Drn:
    """`drn` as torchrun starts it, in two processes."""
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return Drn(tmp_path, (*command, "--nproc-per-node", "2", "-m", "drn_cli"))


@dataclass(frozen=True)
class Trained:
    """A finished run of `recipe_file`, in the folder in which it was started."""

    cwd: Path
    folder: Path
    stdout: str
    stderr: str


def train_in(cwd: Path, recipe_file: Path) -> Trained:
    done = Drn(cwd)("train", recipe_file, "--json")
    assert done.returncode == 0, done.stderr
    folder = cwd / json.loads(done.stdout)["run"]
    return Trained(cwd, folder, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def trained(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run of `recipe_file`, for tests that only read it."""
    return train_in(tmp_path_factory.mktemp("trained"), recipe_file)


@pytest.fixture(scope="session")
def thin_trained(thin_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run of `thin_recipe_file`, for tests that only read it."""
    return train_in(tmp_path_factory.mktemp("thin"), thin_recipe_file)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a condition is true, and return its value."""

    def wait(condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.02)
        raise TimeoutError

    return wait


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """Read the metrics of a run, without times, which differ between runs."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for record in records:
            for name in ("images_per_second", "waiting", "seconds"):
                record.pop(name, None)
        return records

    return read


Spawn = Callable[..., list[Any]]


@pytest.fixture
def spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawn]:
    """Call `function(group, *arguments)` in the processes of a job, and return their results.

    This process holds the store at which they meet, so the port is never taken.
    """
    import torch
    import torch.distributed as dist

    # So that the processes can import `tests.conftest` and the test module from any folder.
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])
    context = multiprocessing.get_context("forkserver")
    # Import slow modules once, before the fork; optimizers need torch._dynamo.
    context.set_forkserver_preload(["torch", "torch._dynamo", "drn_cli.training.loop", "pytest"])
    children: list[Any] = []

    def run(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        results = [tmp_path / f"{function.__name__}_{rank}.pt" for rank in range(world)]
        for rank in range(world):
            variables = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": store.port,
                "TORCHELASTIC_USE_AGENT_STORE": True,
                "TORCHELASTIC_RESTART_COUNT": 0,
                "CUDA_VISIBLE_DEVICES": "",
            }
            given = (variables, function, arguments, results[rank])
            children.append(context.Process(target=_worker, args=given, daemon=True))
            children[-1].start()
        for child in children:
            child.join(TIMEOUT)
        assert [child.exitcode for child in children] == [0] * len(children)
        children.clear()
        return [torch.load(path, weights_only=False) for path in results]

    yield run
    for child in children:
        child.kill()


def _worker(
    variables: dict[str, Any], function: Callable[..., Any], arguments: Sequence[Any], result: Path
) -> None:
    import torch

    from drn_cli.distributed.group import join

    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    with join() as group:
        torch.save(function(group, *arguments), result)


@pytest.fixture(scope="session")
def camvid_source() -> Path:
    """Return the real CamVid, in the SegNet layout and without test labels."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip(f"CamVid is not at {folder}")
    return folder
