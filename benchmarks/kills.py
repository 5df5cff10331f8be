"""`kill -9` at random moments of real commands, then the same command again: is anything lost?

* training: killed and resumed until it is done; weights, metrics and best must equal those of a run
  that was never killed.
* preparation: killed, then run again; the folder must equal one that was made undisturbed, and no
  process and no hidden folder may stay behind.
* export --force over an earlier export: after each kill, the file must open, as the old or the new.
* prediction: killed, then continued with --skip-existing; the maps must equal undisturbed ones.

Called by robustness.py.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

TRAINING = (
    *("train", "drn_d_22_camvid", "data.root=data", "data.classes=3", "model.arch=drn_a_18"),
    *("augment.crop=32", "train.batch_size=4", "train.epochs=6", "data.workers=1"),
    *("train.save_every_steps=2", "train.eval_every=2", "train.ema=0.9"),
)
TIMES = ("images_per_second", "waiting", "seconds")  # of metrics, which no two runs share


def drn(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(_command(words), capture_output=True, text=True, timeout=600, check=False)
    if check and done.returncode:
        raise RuntimeError(f"drn {' '.join(words)}: {done.stderr}")
    return done


def kill_after(seconds: float, *words: str) -> bool:
    """Start a command in a new session and kill all its processes; False if it had ended."""
    process = subprocess.Popen(
        _command(words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)  # the command alone: its workers have to notice
        process.wait()
        return True
    return False


def left_running(folder: Path, patience: float = 20) -> list[str]:
    """List processes that still run in a folder after some seconds."""
    end = time.monotonic() + patience
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink() == folder and int(entry.name) != os.getpid():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.5)


def images(folder: str, count: int, size: tuple[int, int]) -> None:
    """Draw noise images and label maps."""
    random_ = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (Path(folder) / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        ids = random_.integers(0, 3, (size[1] // 8, size[0] // 8), np.uint8)
        ids = ids.repeat(8, 0).repeat(8, 1)
        pixels = np.clip(ids[..., None] * 80 + random_.integers(0, 60, (*ids.shape, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(f"{folder}/images/{number:03}.png")
        Image.fromarray(ids).save(f"{folder}/labels/{number:03}.png")


def prepare_words(out: str) -> tuple[str, ...]:
    source = ("--images", "source/images", "--labels", "source/labels")
    return ("data", "prepare", "pairs", *source, "--out", out)


def contents(folder: str) -> dict[str, bytes]:
    """Read all files below a folder, including hidden ones, except locks."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _run_state(folder: str) -> list[Any]:
    run = Path(folder)
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    tensors = {f"model/{k}": v for k, v in last["model"].items()}
    tensors |= {f"averaged/{k}": v for k, v in last["averaged"].items()}
    tensors |= {
        f"momentum/{k}": v["momentum_buffer"] for k, v in last["optimiser"].items()
    } | load_file(run / "checkpoints" / "best.safetensors")
    return [metrics, {key: value.numpy().tobytes() for key, value in tensors.items()}]


def kill_training(count: int, luck: random.Random) -> list[str]:
    """Kill and resume a training, `count` times or until it is done."""
    drn(*prepare_words("data"))
    start = time.monotonic()
    drn(*TRAINING, "--run-dir", "whole")
    seconds = time.monotonic() - start
    wrong, kills = [], 0
    while kills < count:
        words: Sequence[str] = (*TRAINING, "--run-dir", f"killed{kills}")
        folder = words[-1]
        while kill_after(luck.uniform(1, seconds), *words):
            kills += 1
            if (Path(folder) / "checkpoints" / "last.pt").exists():
                words = ("train", "--resume", folder)
        if not Path(folder, "checkpoints", "last.pt").exists():
            wrong.append(f"{folder}: did not finish")
        elif _run_state(folder) != _run_state("whole"):
            wrong.append(f"{folder}: differs from the run that was never killed")
    return wrong + [f"left running: {words}" for words in left_running(Path.cwd())]


def kill_preparation(count: int, luck: random.Random) -> list[str]:
    """Kill a preparation, then run it again."""
    start = time.monotonic()
    drn(*prepare_words("whole"))
    seconds = time.monotonic() - start
    wrong = []
    for number in range(count):
        out = f"out{number}"
        kill_after(luck.uniform(0, seconds), *prepare_words(out))
        drn(*prepare_words(out))
        if contents(out) != contents("whole"):
            wrong.append(f"preparation {number}: differs from an undisturbed one")
    hidden = [path.name for path in Path.cwd().iterdir() if path.name.startswith(".")]
    wrong += [f"left behind: {name}" for name in hidden if not name.endswith(".lock")]
    return wrong + [f"left running: {words}" for words in left_running(Path.cwd())]


def kill_export(form: str, ending: str) -> Callable[[int, random.Random], list[str]]:
    def campaign(count: int, luck: random.Random) -> list[str]:
        """Replace an export in a killed process; the file must open each time."""
        _network()
        words = ("export", "net.safetensors", "--format", form, "--out", f"net{ending}", "--force")
        drn(*words)
        start = time.monotonic()
        drn(*words)
        seconds, wrong = time.monotonic() - start, []
        for number in range(count):
            # Most of the time goes into the import of torch: aim at the end, where files move.
            kill_after(luck.uniform(seconds * 0.7, seconds * 1.02), *words)
            done = drn("predict", "one.png", "--weights", f"net{ending}", check=False)
            if done.returncode:
                wrong.append(f"export {number}: {done.stderr.strip().splitlines()[-1]}")
                drn(*words)
        return wrong

    return campaign


def kill_prediction(count: int, luck: random.Random) -> list[str]:
    """Kill a prediction over a folder, then continue it."""
    _network()
    words = ("predict", "source/images", "--weights", "net.safetensors", "--out")
    start = time.monotonic()
    drn(*words, "whole")
    seconds, wrong = time.monotonic() - start, []
    for number in range(count):
        out = f"out{number}"
        kill_after(luck.uniform(seconds / 3, seconds), *words, out)
        drn(*words, out, "--skip-existing")
        left, right = contents(out), contents("whole")
        for each in (left, right):
            each.pop("predictions.json", None)
        if left != right:
            wrong.append(f"prediction {number}: differs from an undisturbed one")
    return wrong


def _network() -> None:
    from drn_cli.networks import create_model
    from drn_cli.networks.checkpoints import save_weights

    torch.manual_seed(0)
    save_weights(Path("net.safetensors"), create_model("drn_a_18", "segmentation", 3))
    Image.open("source/images/000.png").save("one.png")


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "drn_cli", *words]


CAMPAIGNS = {
    "training": (kill_training, 24, (64, 48)),
    "preparation": (kill_preparation, 60, (512, 384)),
    "export onnx": (kill_export("onnx", ".onnx"), 4, (64, 48)),
    "export openvino": (kill_export("openvino", ".xml"), 4, (64, 48)),
    "prediction": (kill_prediction, 40, (256, 192)),
}


def campaign(count: int, seed: int, names: list[str] | None = None) -> int:
    """Run all campaigns and print a line for each; return the number of failures."""
    home, failed = Path.cwd(), 0
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    for name, (work, many, size) in CAMPAIGNS.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            try:
                images("source", many, size)
                wrong = work(count, random.Random(f"{seed}/{name}"))
            finally:
                os.chdir(home)
        failed += len(wrong)
        print(
            f"{name:16}{count:6} kills, {len(wrong)} went wrong", *wrong, sep="\n    ", flush=True
        )
    return failed
