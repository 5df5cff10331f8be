"""`drn localize`: heat maps, arrays, boxes, and localization errors."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import colour_classifier
import numpy as np
import pytest
import torch
from colour_classifier import NAMES, WNIDS, draw, save
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.boxes import read_boxes
from drn_cli.data.images import read_image
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.localization import LocalizationScores, localize, match_boxes
from drn_cli.inference.activation import ClassActivationMap, class_activation_map
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.heat_maps import heat_map_overlay
from drn_cli.inference.loading import load_classifier

CPU = torch.device("cpu")
NONE = float("-inf")
SIDE = 64
RED, BLUE, GREEN = (20, 8, 59, 47), (4, 10, 45, 55), (30, 30, 80, 60)
TRUE = {"red": RED, "blue": (50, 10, 90, 55)}  # blue is elsewhere; green has no true box

Localize = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on images of 64 pixels."""
    folder = tmp_path_factory.mktemp("run") / "colours"
    return colour_classifier.write_run(folder, side=SIDE, resize=SIDE)


@pytest.fixture(scope="module")
def classifier(run: Path) -> ClassificationPredictor:
    best = run / "checkpoints" / "best.safetensors"
    return load_classifier(best, CPU, crop=SIDE, resize=SIDE)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/blue.png, photos/deep/green.png and photos/red.png, in the current folder."""
    monkeypatch.chdir(tmp_path)
    save(Path("photos/red.png"), draw(64, 96, {"red": RED}, 1))
    save(Path("photos/blue.png"), draw(64, 96, {"blue": BLUE, "red": (70, 20, 87, 40)}, 2))
    save(Path("photos/deep/green.png"), draw(64, 96, {"green": GREEN}, 3))
    return Path("photos")


@pytest.fixture
def drn_localize(run: Path) -> Localize:
    return lambda *words: CliRunner().invoke(
        app, ["localize", "--weights", str(run), *map(str, words)]
    )


def json_of(result: Any, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def near(found: Sequence[float], expected: Any) -> bool:
    return np.abs(np.array(found) - np.array(expected)).max() <= 0.01


def seen(classifier: ClassificationPredictor, path: Path, *settings: Any) -> ClassActivationMap:
    return class_activation_map(classifier, read_image(path), *settings)


def test_heat_maps_with_the_box_of_the_most_probable_class(
    drn_localize: Localize, photos: Path, classifier: ClassificationPredictor
) -> None:
    result = drn_localize(photos)
    assert result.exit_code == 0, result.output
    expected = {"red": ("red", RED), "blue": ("blue", BLUE), "deep/green": ("green", GREEN)}
    for name, (colour, drawn) in expected.items():
        image = read_image(photos / f"{name}.png")
        found, kind = class_activation_map(classifier, image), NAMES.index(colour)
        [[box]] = found.boxes([kind], [NONE])
        assert np.abs(box - drawn).max() <= 8
        written = read_image(Path("localized") / "heatmap" / f"{name}.png")
        assert np.array_equal(written, heat_map_overlay(image, found, kind, box))
        share = f"{100 * found.probabilities[kind]:.1f}"
        cells = [f"photos/{name}.png", colour, share, "%", "none", *(f"{n:.0f}" for n in box)]
        assert cells in [line.split() for line in result.stdout.splitlines()]
    assert "3 images localized: localized/heatmap" in result.stdout
    assert not Path("localized/array").exists()


def test_arrays_boxes_and_csv_of_two_classes_and_several_thresholds(
    drn_localize: Localize, photos: Path, classifier: ClassificationPredictor
) -> None:
    save(Path("found/heatmap/old.png"), draw(20, 20, {}))  # output of an earlier run, not an input
    words = ("--out", "found", "--save", "array,heatmap", "--top-k", 2, "--csv", "boxes.csv")
    document = json_of(drn_localize(".", *words, "--thresholds", "none,2:6:2", "--json"))
    assert (document["of"], document["view"], document["failed"]) == ("score", "whole", [])
    names = [f"photos/{name}.png" for name in ("blue", "deep/green", "red")]
    assert [entry["image"] for entry in document["results"]] == names
    rows = rows_of(Path("boxes.csv"))
    assert len(rows) == 3 * 2 * 4
    for entry, name in zip(document["results"], names, strict=True):
        stem = f"found/%s/{name.removesuffix('.png')}%s"
        files = [stem % ("heatmap", "_1.png"), stem % ("heatmap", "_2.png")]
        assert entry["files"] == [*files, stem % ("array", ".npz")]
        found = seen(classifier, Path(name))
        kinds = found.topk(2)
        assert [one["class"] for one in entry["classes"]] == [NAMES[kind] for kind in kinds]
        boxes = found.boxes(kinds, [NONE, 2, 4, 6])
        with np.load(entry["files"][2]) as arrays:
            assert np.array_equal(arrays["maps"], found.maps[kinds].numpy())
            assert np.array_equal(arrays["boxes"], boxes, equal_nan=True)
            assert arrays["names"].tolist() == [NAMES[kind] for kind in kinds]
            assert arrays["thresholds"].tolist() == [NONE, 2, 4, 6]
        for place, one in enumerate(entry["classes"]):
            assert one["probability"] == pytest.approx(float(found.probabilities[kinds[place]]))
            assert [at["threshold"] for at in one["boxes"]] == [None, 2, 4, 6]
            heat = heat_map_overlay(read_image(Path(name)), found, kinds[place], boxes[place, 0])
            assert np.array_equal(read_image(Path(files[place])), heat)
            for at, box in zip(one["boxes"], boxes[place], strict=True):
                row = rows.pop(0)
                corners = [row[key] for key in ("xmin", "ymin", "xmax", "ymax")]
                limit = "none" if at["threshold"] is None else f"{at['threshold']:g}"
                assert (row["image"], row["class"], row["threshold"]) == (
                    name,
                    one["class"],
                    limit,
                )
                if np.isnan(box).any():
                    assert at["box"] is None and corners == [""] * 4
                else:
                    assert near(at["box"], box) and near([float(n) for n in corners], box)
    assert {
        at["box"] is None for one in document["results"][0]["classes"] for at in one["boxes"]
    } == {
        True,
        False,
    }


def test_classes_by_name_and_by_folder(
    drn_localize: Localize, photos: Path, classifier: ClassificationPredictor
) -> None:
    words = ("--class", "blue", "--class", WNIDS[0], "--of", "probability", "--see", "centre")
    document = json_of(drn_localize(photos / "blue.png", *words, "--json"))
    [entry] = document["results"]
    found = seen(classifier, photos / "blue.png", "centre", "probability")
    boxes = found.boxes([NAMES.index("blue"), NAMES.index("red")], [NONE])
    assert [one["class"] for one in entry["classes"]] == ["blue", "red"]
    for one, box in zip(entry["classes"], boxes, strict=True):
        assert near(one["boxes"][0]["box"], box[0])
    assert sorted(path.name for path in Path("localized").rglob("*.png")) == [
        "blue_1.png",
        "blue_2.png",
    ]


def test_checkpoint_without_a_run_uses_the_crops_of_imagenet(run: Path, photos: Path) -> None:
    alone = Path("alone.safetensors")
    alone.write_bytes((run / "checkpoints" / "best.safetensors").read_bytes())
    words = ("--weights", alone, "--save", "array", "--see", "centre")
    result = CliRunner().invoke(app, ["localize", str(photos / "red.png"), *map(str, words)])
    assert result.exit_code == 0, result.output
    with np.load("localized/array/red.npz") as arrays:
        assert arrays["maps"].shape == (1, 28, 28)
        assert arrays["seen"].tolist() == [4, 20, 56, 56]  # 224 of 256, by a quarter


def tiny(path: Path) -> Path:
    lines = [
        f"{name}.JPEG\t{WNIDS[NAMES.index(name)]}\t" + "\t".join(map(str, box))
        for name, box in TRUE.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def xml(folder: Path) -> Path:
    for name, box in TRUE.items():
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inner = "".join(f"<{key}>{number}</{key}>" for key, number in corners)
        wnid = WNIDS[NAMES.index(name)]
        path = folder / wnid / f"{name}.xml"
        path.parent.mkdir(parents=True)
        path.write_text(
            f"<annotation><object><name>{wnid}</name><bndbox>{inner}</bndbox></object></annotation>"
        )
    return folder


def scored(
    classifier: ClassificationPredictor, photos: Path, truth: Path, *limits: float
) -> LocalizationScores:
    index = {wnid: n for n, wnid in enumerate(WNIDS)}
    images, without, _ = match_boxes(sorted(photos.rglob("*.png")), read_boxes(truth), index)
    assert len(without) == 1
    return localize(classifier, images, Group(0, 1, CPU), limits, per_image=True)


def test_table_of_errors(
    drn_localize: Localize, photos: Path, classifier: ClassificationPredictor
) -> None:
    truth = tiny(Path("val_annotations.txt"))
    result = drn_localize(photos, "--eval", "--boxes", truth, "--partial")
    assert result.exit_code == 0, result.output
    limits = (NONE, *map(float, range(31)))
    scores = scored(classifier, photos, truth, *limits)
    rows = [line.split() for line in result.stdout.splitlines()]
    for limit, one, five in zip(("none", *range(31)), scores.top1, scores.top5, strict=True):
        assert [str(limit), f"{100 * one:.2f}", f"{100 * five:.2f}"] in rows
    assert ["none", "50.00", "50.00"] in rows and ["30", "100.00", "100.00"] in rows
    assert ["classification", "0.00", "0.00"] in rows
    assert (
        "2 images; best threshold none, chosen on these images: top-1 error 50.00 %"
        in result.stdout
    )
    assert "partial: 2 of 3 scored: 1 of 3 have no box of a known class" in result.stderr
    assert not Path("localized").exists(), "--eval writes no heat maps"


def test_errors_as_json_csv_and_page(
    drn_localize: Localize, photos: Path, classifier: ClassificationPredictor
) -> None:
    truth = xml(Path("boxes"))
    words = (
        "--eval",
        "--boxes",
        truth,
        "--thresholds",
        "none,-1,3:4:0.25,20",
        "--json",
        "--partial",
    )
    result = drn_localize(photos, *words, "--csv", "out.csv", "--report", "pages/page.html")
    document = json_of(result)
    limits = [NONE, -1, 3, 3.25, 3.5, 3.75, 4, 20]
    scores = scored(classifier, photos, truth, *limits)
    about = {key: document.pop(key) for key in ("checkpoint", "run", "of", "view")}
    assert [document.pop(key) for key in ("verified", "mean_std_source")] == [True, "file"]
    assert [document.pop(key) for key in ("mean", "std")] == [[0.45, 0.5, 0.4], [0.25, 0.2, 0.3]]
    part = [document.pop(key) for key in ("partial", "expected", "failed")]
    assert part == [True, 3, []]
    assert (about["of"], about["view"]) == ("score", "whole")
    assert about["checkpoint"].endswith("colours/checkpoints/best.safetensors")
    assert {key: document[key] for key in scores.to_json()} == scores.to_json()
    assert [one["threshold"] for one in document["sweep"]] == [None, *limits[1:]]
    blue, red = rows_of(Path("out.csv"))
    assert (blue["image"], red["image"]) == ("photos/blue.png", "photos/red.png"), "worst first"
    assert (red["class"], red["predicted"]) == ("red", "red")
    assert (red["top1_right"], red["top5_right"], blue["top1_right"]) == ("1", "1", "0")
    for row, found in zip((blue, red), scores.per_image, strict=True):
        assert float(row["iou"]) == pytest.approx(found.iou[0, scores.best], abs=1e-6)
        assert float(row["probability"]) == pytest.approx(found.probabilities[0], abs=1e-6)
        corners = [float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")]
        assert corners == pytest.approx(found.boxes[0, scores.best].tolist(), abs=0.05)
    page = Path("pages/page.html").read_text()
    assert "photos/blue.png" in page and "photos/red.png" in page and "50.00" in page
    assert "written: out.csv" in result.stderr and "written: pages/page.html" in result.stderr


def test_two_processes_give_the_same_output(drn: Any, run: Path, photos: Path) -> None:
    tiny(Path("v.txt"))
    words = (
        "localize",
        photos,
        "--weights",
        run,
        "--eval",
        "--boxes",
        "v.txt",
        "--partial",
        "--json",
    )
    outputs = []
    for gpus in (1, 2):
        result = drn(*words, "--csv", f"{gpus}.csv", "--gpus", str(gpus))
        assert result.returncode == 0, result.stderr
        outputs.append((result.stdout, Path(f"{gpus}.csv").read_text()))
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0][0])["images"] == 2


def test_symbolic_link_in_the_output_folder_is_not_followed(
    drn_localize: Localize, photos: Path
) -> None:
    Path("elsewhere").mkdir()
    Path("localized/heatmap").mkdir(parents=True)
    Path("localized/heatmap/deep").symlink_to(Path("elsewhere").resolve())
    result = drn_localize(photos)
    assert isinstance(result.exception, DrnError)
    assert "localized/heatmap/deep: is a symbolic link" in str(result.exception)
    assert not list(Path("elsewhere").iterdir())
