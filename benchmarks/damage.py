"""Random damage to every file that `drn` reads: is it used silently, or reported?

Writes one small file of each format, damages copies of it (flipped bits, zeroed, swapped, inserted
and cut bytes), and opens each copy with the reader that the commands use. Prints format x damages x
silent: a copy is silent when it was used without any line although a tensor, the metadata, a pixel
or an output differs. What changes nothing (padding, zip timestamps) is counted as unchanged.
Called by robustness.py.
"""

import logging
import multiprocessing
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from drn_cli.data.cache import DecodedCache
from drn_cli.data.folders import ListDataset, Sample
from drn_cli.data.images import read_image, read_label
from drn_cli.data.prepare.scenes import make_scenes
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.export.exporting import export
from drn_cli.export.form import ExportConfig
from drn_cli.inference.opening import open_network
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.inference.source import Source
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.recipe.loading import load_recipe
from drn_cli.training.checkpoint import TrainProgress, load_checkpoint, save_checkpoint
from drn_cli.training.setup import TrainState, build_train_state
from drn_cli.training.tasks import task_of

OUTCOMES = ("refused", "reported", "unchanged", "silent", "unexpected", "crashed")
CLASSES = 3
SECONDS = 300  # in which a damaged file is read or refused
EDGE = 1 << 16  # half of the damages hit this many bytes at either end: heads and indices

Answer = list[tuple[str, Any]]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        make: Write the file into a folder; returns its path.
        read: Read it as the commands do; returns all that a user would get from it.
        damaged: Ending of the file that is damaged, where it is not the one that is read.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Answer]
    damaged: str | None = None


def damage(content: bytes, luck: random.Random) -> bytes:
    """Damage the bytes of a file as disks, copies and downloads do."""
    data = bytearray(content)

    def place(length: int = 1) -> int:
        last = max(0, len(data) - length)
        if luck.random() < 0.5:
            return luck.randint(0, last)
        near = luck.randint(0, min(EDGE, last))
        return near if luck.random() < 0.5 else last - near

    kind = luck.randrange(8)
    if kind <= 2:
        data[place()] ^= 1 << luck.randrange(8)
    elif kind == 3:
        at = place(64)
        data[at : at + 64] = luck.randbytes(min(64, len(data) - at))
    elif kind == 4:
        at = place(512)
        data[at : at + 512] = bytes(min(512, len(data) - at))
    elif kind == 5:
        del data[place() :]
    elif kind == 6:
        del data[(at := place()) : at + 1]
    else:
        size = min(4096, len(data) // 2)
        one, other = sorted((luck.randint(0, len(data) - size), luck.randint(0, len(data) - size)))
        data[one : one + size], data[other : other + size] = (
            data[other : other + size],
            data[one : one + size],
        )
    return bytes(data)


def equal(one: Answer, other: Answer) -> bool:
    """Compare two results bit for bit."""
    if [name for name, _ in one] != [name for name, _ in other]:
        return False
    for (_, left), (_, right) in zip(one, other, strict=True):
        if isinstance(left, np.ndarray):
            if left.shape != right.shape or left.tobytes() != right.tobytes():
                return False
        elif left != right:
            return False
    return True


# -- what is written, and how it is read ------------------------------------------------------


def network_file(folder: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("drn_a_18", "segmentation", CLASSES)
    path = folder / "net.safetensors"
    save_weights(path, model, {"mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.3, 0.4]"})
    return path


def torch_file(folder: Path) -> Path:
    model = open_network(network_file(folder)).model  # type: ignore[union-attr]
    path = folder / "net.pth"
    torch.save({"state_dict": model.state_dict(), "arch": model.arch, "task": model.task}, path)
    return path


def exported_file(name: Any, ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        source = Source(network_file(folder), None)
        return export(source, ExportConfig(format=name), folder / f"net{ending}").files[-1]

    return make


def open_and_run(path: Path) -> Answer:
    """Open a network and read its weights, or its output for an export, and its metadata."""
    found = open_network(path)
    facts: Answer = [("metadata", sorted(found.metadata.items()))]
    if isinstance(found, ExportedNetwork):
        x = torch.linspace(-2, 2, 3 * 32 * 48).reshape(1, 3, 32, 48)
        return [*facts, ("scores", found.session(torch.device("cpu"), 1)(x, "scores").numpy())]
    return facts + [(key, value.numpy()) for key, value in found.model.state_dict().items()]


def training_in(folder: Path) -> TrainState:
    settings = (f"data.root={folder / 'data'}", "augment.crop=32", "train.batch_size=2")
    arch = ("model.arch=drn_a_18", "model.weights=null", "train.ema=0.9")
    recipe = load_recipe("drn_d_22_cityscapes", (*settings, *arch)).recipe
    torch.manual_seed(0)
    group = Group(0, 1, torch.device("cpu"))
    return build_train_state(recipe, task_of(recipe).load_data(recipe), group)


def checkpoint_file(folder: Path) -> Path:
    make_scenes(folder / "data", train=2, val=1, test=0, width=256, height=128)
    training = training_in(folder)
    for parameter in training.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    training.optimiser.step()
    save_checkpoint(folder / "last.pt", training, TrainProgress(1, 1, 2, 0.5, [0.0]), 3.0)
    return folder / "last.pt"


def resume_from(path: Path) -> Answer:
    """Resume from a checkpoint and return the complete state."""
    training = training_in(path.parent)
    found = load_checkpoint(path, training)
    assert training.averaged is not None
    tensors: Answer = [*training.model.state_dict().items()]
    tensors += training.averaged.state_dict().items()
    for state in training.optimiser.state_dict()["state"].values():
        tensors += state.items()
    values = [(key, value.numpy()) for key, value in tensors if isinstance(value, torch.Tensor)]
    return [*values, ("found", found), ("random", torch.get_rng_state().numpy())]


def scene(folder: Path) -> Sample:
    make_scenes(folder / "data", train=1, val=0, test=0, width=256, height=128)
    (sample,) = ListDataset.open(folder / "data").samples("train")
    return sample


def image_file(ending: str, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"image{ending}"
        Image.open(scene(folder).image).convert("RGB").save(path, **options)
        return path

    return make


def palette_file(folder: Path) -> Path:
    path = folder / "palette.png"
    Image.open(scene(folder).image).convert("RGB").quantize(16).save(path)
    return path


def label_file(folder: Path) -> Path:
    label = scene(folder).label
    assert label is not None
    return Path(shutil.copy(label, folder / "label.png"))


def cache_entry(folder: Path) -> Path:
    cache = DecodedCache(folder / "cache", folder / "data")
    (folder / "cache").mkdir()
    cache.read(scene(folder))
    (entry,) = (folder / "cache").glob("*.raw")
    return entry


def read_cached(path: Path) -> Answer:
    root = path.parents[1] / "data"
    (sample,) = ListDataset.open(root).samples("train")
    image, label = DecodedCache(path.parent, root).read(sample)
    return [("image", np.array(image)), ("label", np.array(label))]


def statistics_file(folder: Path) -> Path:
    scene(folder)
    return folder / "data" / "info.json"


def read_statistics(path: Path) -> Answer:
    folder = ListDataset.open(path.parent)
    named = folder.named_classes()
    return [("statistics", folder.statistics()), ("classes", named)]


def read_pixels(path: Path) -> Answer:
    return [("pixels", np.array(read_image(path)))]


def read_ids(path: Path) -> Answer:
    return [("ids", np.array(read_label(path)))]


FORMATS = {
    "safetensors": Format(network_file, open_and_run),
    "pth": Format(torch_file, open_and_run),
    "last.pt": Format(checkpoint_file, resume_from),
    "onnx": Format(exported_file("onnx", ".onnx"), open_and_run),
    "pt2": Format(exported_file("pt2", ".pt2"), open_and_run),
    "openvino .xml": Format(exported_file("openvino", ".xml"), open_and_run),
    "openvino .bin": Format(exported_file("openvino", ".xml"), open_and_run, ".bin"),
    "png image": Format(image_file(".png"), read_pixels),
    "png palette": Format(palette_file, read_pixels),
    "png palette ids": Format(palette_file, read_ids),
    "png label": Format(label_file, read_ids),
    "cache entry": Format(cache_entry, read_cached),
}
# Formats without a checksum of their own: damage shows only where the decoder stumbles.
UNCHECKED = {
    "jpeg image": Format(image_file(".jpg", quality=90), read_pixels),
    "info.json": Format(statistics_file, read_statistics),
}


class Lines(logging.Handler):
    """Collects the log messages of the package."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def attempt(name: str, path: Path, broken: bytes, expected: Answer) -> tuple[str, str]:
    """Read one damaged copy; returns the outcome and the first line that a user would see."""
    kind = (FORMATS | UNCHECKED)[name]
    torch.set_num_threads(1)
    logger, lines = logging.getLogger("drn_cli"), Lines()
    logger.handlers, logger.propagate = [lines], False
    logger.setLevel(logging.INFO)
    target = path.with_suffix(kind.damaged) if kind.damaged else path
    target.write_bytes(broken)
    signal.alarm(SECONDS)  # ends this process, wherever it is
    try:
        answer = kind.read(path)
    except DrnError as error:
        return "refused", str(error)
    except Exception as error:
        return "unexpected", f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        signal.alarm(0)
    if equal(answer, expected):
        return "unchanged", ""
    return ("reported", lines.lines[0]) if lines.lines else ("silent", "")


def campaign(name: str, count: int, seed: int) -> Counter[str]:
    """Damage one format's file `count` times."""
    kind = (FORMATS | UNCHECKED)[name]
    outcomes: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        path = kind.make(Path(scratch))
        target = path.with_suffix(kind.damaged) if kind.damaged else path
        content, expected = target.read_bytes(), kind.read(path)
        pool = ProcessPoolExecutor(1, context)
        for number in range(count):
            broken = damage(content, random.Random(f"{seed}/{name}/{number}"))
            try:
                outcome, line = pool.submit(attempt, name, path, broken, expected).result()
            except BrokenProcessPool:
                outcome, line = "crashed", f"the process died, or took {SECONDS} s"
                pool = ProcessPoolExecutor(1, context)
            outcomes[outcome] += 1
            if outcome in ("unexpected", "crashed") or (outcome == "silent" and name in FORMATS):
                print(f"  {name}, damage {number}: {outcome} {line}", flush=True)
        pool.shutdown()
    return outcomes


def campaigns(count: int, seed: int, names: list[str] | None = None) -> int:
    """Damage files of all formats and print a row for each; return the number of silent failures.

    Damage that a format without a checksum does not show is printed, and does not count.
    """
    rows = {
        name: campaign(name, count, seed)
        for name in FORMATS | UNCHECKED
        if not names or name in names
    }
    print(f"{'format':16}{'damages':>10}" + "".join(f"{each:>12}" for each in OUTCOMES))
    for name, outcomes in rows.items():
        note = "  (no checksum in the format)" if name in UNCHECKED else ""
        columns = "".join(f"{outcomes[each]:12}" for each in OUTCOMES)
        print(f"{name:16}{outcomes.total():10}{columns}{note}")
    return sum(
        outcomes[each]
        for name, outcomes in rows.items()
        for each in ("silent", "unexpected", "crashed")
        if name not in UNCHECKED or each != "silent"
    )
