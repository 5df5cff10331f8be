"""Inputs of the golden tests by name, made once per session."""

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from colour_classifier import (
    PAINT,
    STATISTICS,
    WIDTH,
    WNIDS,
    build,
    draw,
    save,
    write,
    write_segmenter,
)
from PIL import Image

from drn_cli.data.classes import cityscapes as cityscapes_classes
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original_keys

Run = Callable[..., tuple[int, str, str]]
NAMES = ("red", "green", "blue")


class World:
    """Folders and files with names; each is made when a case first asks for it."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            MAKERS[name](self, path)
        return path

    def drn(self, *words: str | Path) -> None:
        """Run `drn` in this folder."""
        with contextlib.chdir(self.folder):
            code, _, stderr = self.run(*words)
        assert code == 0, stderr

    def copy(self, name: str, target: Path) -> None:
        entry, *below = name.split("/", 1)
        source = self[entry].joinpath(*below)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
            weights = source.with_suffix(".bin")  # of an OpenVINO network
            if source.suffix == ".xml":
                shutil.copy(weights, target.with_suffix(".bin"))


def blocks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image of 64x48 whose colors are its classes, and its label map with some void."""
    label = np.random.default_rng(seed).integers(0, 3, (3, 4)).repeat(16, 0).repeat(16, 1)
    image = np.array([PAINT[name] for name in NAMES])[label].astype(np.uint8)
    label = label.astype(np.uint8)
    label[:4] = 255
    return image, label


def rectangles(number: int) -> dict[str, tuple[int, int, int, int]]:
    return {NAMES[number % 3]: (8 * (number % 2 + 1), 8, 8 * (number % 2 + 1) + 23, 31)}


def photos(_: World, path: Path) -> None:
    """Two images to predict, one in a folder below, and a file that is none."""
    save(path / "a.png", blocks(0)[0])
    save(path / "deep" / "b.jpg", blocks(1)[0])
    (path / "deep" / "notes.txt").write_text("no image\n")


def data(_: World, path: Path) -> None:
    """A data folder for segmentation: 6 images to train on, 3 to validate, 2 without labels."""
    for split, seeds in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 11))):
        for seed in seeds:
            for kind, pixels in zip(("images", "labels"), blocks(seed), strict=True):
                if kind == "images" or split != "test":
                    save(path / kind / f"{seed}.png", pixels)
        for kind in ("images", "labels")[: 1 if split == "test" else 2]:
            lines = "".join(f"{kind}/{seed}.png\n" for seed in seeds)
            (path / f"{split}_{kind}.txt").write_text(lines)
    info = {"mean": STATISTICS.mean, "std": STATISTICS.std, "classes": NAMES}
    info["colours"] = [PAINT[name] for name in NAMES]
    (path / "info.json").write_text(json.dumps(info))


def classes(_: World, path: Path) -> None:
    """Class folders: 2 images per class to train on, 1 to validate, of 64x48."""
    for split, numbers in (("train", (0, 1)), ("val", (2,))):
        for kind, wnid in zip(PAINT, WNIDS, strict=True):
            for number in numbers:
                place = rectangles(number)[NAMES[number % 3]]
                painted = {} if kind == "other" else {kind: place}
                save(path / split / wnid / f"{kind}{number}.png", draw(48, 64, painted))


def boxes_csv(_: World, path: Path) -> None:
    """The true boxes of the validation images of `classes`, without that of `other`."""
    xmin, ymin, xmax, ymax = rectangles(2)["blue"]
    rows = [
        f"{kind}2.png,{wnid},{xmin},{ymin},{xmax},{ymax}\n"
        for kind, wnid in zip(PAINT, WNIDS, strict=True)
        if kind != "other"
    ]
    path.write_text("image,class,xmin,ymin,xmax,ymax\n" + "".join(rows))


def segmenter(_: World, path: Path) -> None:
    """A segmenter whose classes are the colors of `data`: it was made by hand, not trained."""
    write_segmenter(path)


def other_segmenter(_: World, path: Path) -> None:
    """A segmenter of the same colors, in another order."""
    write_segmenter(path, ("blue", "red", "green"))


def cityscapes_segmenter(_: World, path: Path) -> None:
    """A segmenter of zeros with the classes of Cityscapes."""
    model = create_model("drn_a_18", "segmentation", 19, width=WIDTH)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    save_weights(path, model, to_metadata(model, STATISTICS, cityscapes_classes()))


def classifier(_: World, path: Path) -> None:
    """A classifier whose classes are the colors of `classes`."""
    write(path)


def run_folder(path: Path, weights: Path, recipe: dict[str, Any], scores: dict[str, float]) -> None:
    path.joinpath("checkpoints").mkdir(parents=True)
    shutil.copy(weights, path / "checkpoints" / "best.safetensors")
    train = {"epochs": 2, "batch_size": 2, "lr": 0.1}
    recipe = {"model": {"arch": "drn_a_18", "width": WIDTH}, "train": train} | recipe
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (path / "environment.json").write_text('{"started": "2026-01-31T12:00:00+00:00"}')
    lines = (
        {"kind": "train", "step": 6, "epoch": 2, "loss": 0.25, "lr": 0.1},
        {"kind": "val", "step": 6, "epoch": 2, **scores},
        {"kind": "end", "step": 6, "ending": "finished", "seconds": 60},
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_of_data(world: World, path: Path) -> None:
    """A run of `data` with the segmenter that was made by hand: what verbs read, and no more."""
    data = {"root": "data", "classes": 3, "workers": 0}
    recipe = {"task": "segmentation", "data": data, "augment": {"crop": 32}}
    run_folder(path, world["segmenter.safetensors"], recipe, {"miou": 0.9})


def run_of_classes(world: World, path: Path) -> None:
    """The same of `classes`."""
    data = {"root": "classes", "classes": 5, "workers": 0}
    recipe = {"task": "classification", "data": data}
    recipe |= {"augment": {"crop": 48}, "eval": {"resize": 48}}
    run_folder(path, world["classifier.safetensors"], recipe, {"top1": 0.8, "top5": 1.0})


def runs(_: World, path: Path) -> None:
    """Runs in each state, two that cannot be read, and folders that are none."""

    def make(name: str, day: int, *lines: dict[str, Any], **recipe: Any) -> None:
        (path / name).mkdir(parents=True)
        recipe = {"task": "segmentation", "model": {"arch": "drn_d_22"}} | recipe
        (path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"train": {"epochs": 20}}))
        started = json.dumps({"started": f"2026-01-{day:02}T12:00:00+00:00"})
        (path / name / "environment.json").write_text(started)
        measured = "".join(json.dumps(line) + "\n" for line in lines)
        (path / name / "metrics.jsonl").write_text(measured)

    make(
        "camvid/old",
        1,
        {"kind": "train", "step": 90, "epoch": 19.5, "loss": 0.31234},
        {"kind": "val", "step": 100, "epoch": 20, "miou": 0.51239},
        {"kind": "end", "step": 100, "ending": "finished", "seconds": 7265},
    )
    make(
        "trial [2]",
        9,
        {"kind": "val", "step": 50, "epoch": 1, "top1": 0.25, "top5": 0.5},
        {"kind": "train", "step": 60, "epoch": 1.2, "loss": None},
        task="classification",
    )
    make("sweep/camvid/new", 30)
    (path / "broken" / "time").mkdir(parents=True)
    (path / "broken" / "time" / "recipe.yaml").write_text("task: [")
    (path / "lost" / "time" / "checkpoints").mkdir(parents=True)
    (path / "lost" / "time" / "checkpoints" / "last.pt").touch()
    (path / "camvid" / ".old.tmp").mkdir()
    (path / "camvid" / ".old.tmp" / "recipe.yaml").touch()
    (path / "notes").mkdir()
    (path / "notes" / "readme.txt").touch()


def recipe_file(_: World, path: Path) -> None:
    """Three steps per epoch, two epochs."""
    recipe = {
        "task": "segmentation",
        "model": {"arch": "drn_a_18", "width": 0.0625},
        "data": {"root": "data", "classes": 3, "workers": 0},
        "augment": {"crop": 32, "scale": 1.2, "rotate": 5, "flip": True},
        "train": {"epochs": 2, "batch_size": 2, "lr": 0.0007},
    }
    path.write_text(yaml.safe_dump(recipe))


def trained(world: World, path: Path) -> None:
    """A run that `drn train` made of `data` by `recipe.yaml`: its numbers depend on the machine."""
    for name in ("data", "recipe.yaml"):
        world[name]
    world.drn("train", "recipe.yaml", "--run-dir", path)


def damaged(world: World, path: Path) -> None:
    """Files that cannot be read: images cut off and empty, noise, weights cut off."""
    path.mkdir()
    whole = (world["photos"] / "a.png").read_bytes()
    (path / "cut.png").write_bytes(whole[:100])
    (path / "empty.png").touch()
    (path / "noise.png").write_bytes(b"noise" * 99)
    (path / "noise.pth").write_bytes(b"noise" * 99)
    whole = world["segmenter.safetensors"].read_bytes()
    (path / "cut.safetensors").write_bytes(whole[:5000])


def odd(world: World, path: Path) -> None:
    """Images that can be read: a wide one, and one with bytes after its end."""
    save(path / "wide.png", np.zeros((48, 70, 3), np.uint8))
    (path / "long.png").write_bytes((world["photos"] / "a.png").read_bytes() + bytes(20))


def camvid(_: World, path: Path) -> None:
    """CamVid as SegNet distributes it, with 3, 2 and 1 images of 64x48."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            image, label = blocks(number)
            save(path / split / f"{number}.png", image)
            save(path / f"{split}annot" / f"{number}.png", np.where(label == 255, 11, label))
        lines = [f"/x/{split}/{n}.png /x/{split}annot/{n}.png\n" for n in range(count)]
        (path / f"{split}.txt").write_text("".join(lines))


def cityscapes(_: World, path: Path) -> None:
    """The folders of Cityscapes with 3, 2 and 1 images of 64x48, with label ids for two splits."""
    cities = {"train": ("aachen", "aachen", "ulm"), "val": ("lindau", "lindau"), "test": ("bonn",)}
    for split, named in cities.items():
        for number, city in enumerate(named):
            image, label = blocks(number)
            stem = f"{split}/{city}/{city}_{number:06}_000019"
            save(path / "leftImg8bit" / f"{stem}_leftImg8bit.png", image)
            if split != "test":
                ids = np.array([7, 8, 11], np.uint8)[np.minimum(label, 2)]
                save(path / "gtFine" / f"{stem}_gtFine_labelIds.png", ids)


def zips(world: World, path: Path) -> None:
    """The two archives of `cityscapes` as its site has them."""
    path.mkdir()
    source = world["cityscapes"]
    for top in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(path / f"{top}_trainvaltest.zip", "w") as archive:
            for file in sorted((source / top).rglob("*.png")):
                archive.write(file, file.relative_to(source))


def tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def imagenet(_: World, path: Path) -> None:
    """The archives of ImageNet: 2 classes with an image each, seven broken ones, 2 to validate."""
    path.mkdir()
    file = io.BytesIO()
    Image.fromarray(blocks(0)[0]).save(file, "JPEG")
    image = file.getvalue()
    wnids = ("n01440764", "n01443537")
    broken = {f"{n}.JPEG": image[:50] for n in range(7)}
    inner = (tar({"a.JPEG": image} | broken), tar({"b.JPEG": image}))
    train = {f"{wnid}.tar": data for wnid, data in zip(wnids, inner, strict=True)}
    (path / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    names = ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"]
    val = tar({f"{name}.JPEG": image for name in names})
    (path / "ILSVRC2012_img_val.tar").write_bytes(val)
    rows = [f"{name},{wnid} 1 2 3 4 \n" for name, wnid in zip(names, wnids, strict=True)]
    (path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))


def submission(_: World, path: Path) -> None:
    """A zip file for the Cityscapes server: two maps of label ids, perhaps with mistakes."""
    maps = {}
    for number, value in enumerate((7, 0 if path.stem == "void" else 7)):
        file = io.BytesIO()
        Image.new("L", (2048, 1024), value).save(file, "PNG")
        maps[f"bonn_{number:06}_000019_labelIds.png"] = file.getvalue()
    if path.stem == "flawed":
        del maps["bonn_000001_000019_labelIds.png"]
        maps |= {"ulm_000000_000019.png": b"noise", "[bold]notes[/].txt": b""}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in maps.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def pairs(_: World, path: Path) -> None:
    """Images and label maps in colors, without names, and a classes file."""
    colors = np.array([(0, 0, 0), (128, 64, 128), (0, 128, 0)], np.uint8)
    for number in range(6):
        image, label = blocks(number)
        save(path / "images" / f"{number}.png", image)
        save(path / "labels" / f"{number}_L.png", colors[np.where(label == 255, 0, label)])
    (path / "classes.txt").write_text("0 0 0 void\n128 64 128 road\n0 128 0 tree\n")


def exported(world: World, path: Path) -> None:
    """What `drn export` makes of `run` for images of 64x48, in the format of the file's suffix."""
    formats = {".onnx": "onnx", ".pt2": "pt2", ".xml": "openvino"}
    words = ("--format", formats[path.suffix], "--size", "64x48", "--out", path)
    world.drn("export", world["run"], *words)


def original(_: World, path: Path) -> None:
    """The segmenter as the original code saves it, which has one width alone."""
    torch.save(to_original_keys(build("segmentation", NAMES, width=1)), path)


MAKERS: dict[str, Callable[[World, Path], None]] = {
    "photos": photos,
    "data": data,
    "classes": classes,
    "boxes.csv": boxes_csv,
    "segmenter.safetensors": segmenter,
    "other.safetensors": other_segmenter,
    "cityscapes.safetensors": cityscapes_segmenter,
    "classifier.safetensors": classifier,
    "run": run_of_data,
    "classifier_run": run_of_classes,
    "runs": runs,
    "recipe.yaml": recipe_file,
    "trained": trained,
    "damaged": damaged,
    "odd": odd,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "zips": zips,
    "imagenet": imagenet,
    "pairs": pairs,
    "submission.zip": submission,
    "void.zip": submission,
    "flawed.zip": submission,
    "segmenter.onnx": exported,
    "segmenter.pt2": exported,
    "segmenter.xml": exported,
    "segmenter.pth": original,
}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, drn_in_process: Run) -> World:
    return World(tmp_path_factory.mktemp("world"), drn_in_process)
