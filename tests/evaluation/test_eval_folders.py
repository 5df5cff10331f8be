"""`drn eval --images` and `--predictions` against a folder of label maps."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import cityscapes
from drn_cli.data.folders import Sample
from drn_cli.errors import DrnError
from drn_cli.evaluation.label_maps import PairReader
from drn_cli.inference.loading import load_predictor


def scores(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["eval", *map(str, words)])


def best_of(trained) -> Path:
    return trained.folder / "checkpoints" / "best.safetensors"


@pytest.fixture
def generated(data_folder, tmp_path) -> tuple[Path, Path]:
    """The validation images, resized, in one folder, and their label maps in another."""
    for folder in ("generated", "truth/maps"):
        (tmp_path / folder).mkdir(parents=True)
    for name in (data_folder / "val_images.txt").read_text().split():
        image, stem = Image.open(data_folder / name), Path(name).stem
        image.resize((50, 37)).save(tmp_path / "generated" / f"{stem}_generated.png")
        label = data_folder / "labels" / f"{stem}.png"
        shutil.copy(label, tmp_path / "truth" / "maps" / f"{stem}.png")
    return Path("generated"), Path("truth")


def folders(kind: str, names: tuple[Path, Path]) -> list[str | Path]:
    return [f"--{kind}", names[0], "--labels", names[1]]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ([], "label"),
        (["--resize-to", "label"], "label"),
        (["--resize-to", "none"], "none"),
        (["--resize-to", "40x56"], (40, 56)),
    ],
)
def test_generated_images_against_label_maps(evaluate, trained, generated, words, size):
    found = scores(
        evaluate("--weights", trained.folder, *folders("images", generated), *words, "--json")
    )
    read, counts = PairReader(3, "class-ids", size), np.zeros((3, 3), int)
    predictor = load_predictor(best_of(trained), torch.device("cpu"))
    for path in sorted(generated[0].iterdir()):
        name = path.name.replace("_generated", "")
        image, label = read(Sample(path, generated[1] / "maps" / name))
        valid = label != 255
        np.add.at(counts, (label[valid], predictor(image).numpy()[valid]), 1)
    assert found["confusion_matrix"] == counts.tolist()
    assert list(found["iou"]) == ["red", "green", "blue"]
    protocol = found["protocol"]
    assert protocol["resize_to"] == ("40x56" if size == (40, 56) else size)
    assert (protocol["images"], protocol["labels"], protocol["pairs"]) == ("generated", "truth", 5)
    assert "images: stem + _generated" in protocol["paired_by"]
    assert (protocol["label_ids"], protocol["scales"], protocol["precision"]) == (
        "class-ids",
        [1.0],
        "float32",
    )
    assert protocol["checkpoint"] == found["checkpoint"] == str(best_of(trained))
    assert (found["run"], found["verified"]) == (str(trained.folder), True)
    assert protocol["sha256"] == hashlib.sha256(best_of(trained).read_bytes()).hexdigest()


def test_one_and_two_processes_write_the_same_files(evaluate, drn, trained, generated, tmp_path):
    damage(MAPS / "102.png")
    words = [trained.folder, *folders("images", generated), "--ms", "--json", "--partial"]
    one = evaluate(*words, "--csv", "one.csv")
    two = drn("eval", *words, "--csv", "two.csv", "--gpus", "2")
    assert one.exit_code == two.returncode == 1, two.stderr
    assert "error: " not in two.stderr  # a failed image is not a failed process
    assert one.stdout == two.stdout
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert json.loads(one.stdout)["protocol"]["scales"] == [0.5, 0.75, 1, 1.25, 1.5, 1.75]


def damage(path: Path) -> None:
    """Flip a bit in the pixel data of a PNG, so that its checksum fails."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


MAPS = Path("truth", "maps")
# A change of the five pairs of `generated`; message; scored, expected and exit code.
PARTS = {
    "images without a label": (
        lambda: remove(MAPS, "100.png", "101.png"),
        "generated: 2 of 5 have no label map in truth: 100_generated.png, 101_generated.png",
        (3, 5, 0),
    ),
    "labels without an image": (
        lambda: remove(Path("generated"), *(f"10{n}_generated.png" for n in range(4))),
        "generated: 4 of 5 have no image in generated: maps/100.png, maps/101.png, maps/102.png "
        "and 1 more",
        (1, 5, 0),
    ),
    "both": (
        lambda: (remove(MAPS, "100.png"), remove(Path("generated"), "104_generated.png")),
        "generated: 1 of 5 have no label map in truth: 100_generated.png; "
        "1 of 5 have no image in generated: maps/104.png",
        (3, 5, 0),
    ),
    "broken links on both sides": (
        lambda: [
            path.symlink_to("nothing")
            for path in (MAPS / "a.png", Path("generated/a_generated.png"))
        ],
        "generated: left out: broken link 1 (a_generated.png)",
        (5, 6, 0),
    ),
    "a broken link": (
        lambda: (remove(MAPS, "100.png"), (MAPS / "100.png").symlink_to("nothing")),
        "generated: 1 of 5 have no label map in truth: 100_generated.png",
        (4, 5, 0),
    ),
    "a damaged label map": (lambda: damage(MAPS / "102.png"), "truth/maps/102.png: ", (4, 5, 1)),
    "a text file": (
        lambda: Path("generated", "102_generated.png").write_text("text"),
        "generated/102_generated.png: ",
        (4, 5, 1),
    ),
}


@pytest.mark.parametrize("kind", ["images", "predictions"])
@pytest.mark.parametrize("part", PARTS)
def test_incomplete_pairs_are_an_error_without_partial(
    evaluate, trained, generated, kind, part, caplog
):
    change, message, (count, expected, code) = PARTS[part]
    words = folders(kind, generated)
    if kind == "images":
        words = ["--weights", trained.folder, *words]
    else:  # the label maps themselves as predictions
        for path in generated[0].iterdir():
            shutil.copy(MAPS / path.name.replace("_generated", ""), path)
        words += ["--classes", "3"]
    change()
    result = evaluate(*words, "--json")
    assert isinstance(result.exception, DrnError)
    assert result.exception.message.startswith(message)
    if code == 0:
        assert result.exception.hint == f"--partial scores {count} of them"
    result = evaluate(*words, "--json", "--partial", "--report", "page.html")
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert (found["partial"], found["images"], found["expected"]) == (True, count, expected)
    assert found["images"] == found["protocol"]["pairs"] == count
    assert f"warning: partial: {count} of {expected} scored: " in result.stderr
    assert message.removeprefix("generated: ") in result.stderr + caplog.text
    assert [one["error"].startswith(message) for one in found["failed"]] == [True] * code
    assert f"{count} of {expected} (partial)" in Path("page.html").read_text()


def test_ids_are_detected_although_a_map_cannot_be_read(evaluate, saved):
    for folder in saved:
        Image.new("L", (4, 1), 26).save(folder / "b.png")  # a label id
        (folder / "a.png").write_text("text")
    words = [*folders("predictions", saved), "--classes", "19", "--json"]
    assert isinstance(evaluate(*words).exception, DrnError)
    found = json.loads(evaluate(*words, "--partial").stdout)
    assert (found["images"], found["protocol"]["label_ids"]) == (1, "label-ids")


def test_symbolic_links_are_replaced_not_followed(evaluate, saved):
    for name in ("scores.csv", "page.html"):
        Path(f"precious_{name}").write_text("precious")
        Path(name).symlink_to(f"precious_{name}")
    words = [*folders("predictions", saved), "--classes", "3"]
    result = evaluate(*words, "--csv", "scores.csv", "--report", "page.html")
    assert result.exit_code == 0, result.output
    for name in ("scores.csv", "page.html"):
        assert Path(f"precious_{name}").read_text() == "precious"
        assert not Path(name).is_symlink() and Path(name).stat().st_size > 100


def test_file_names_are_escaped_in_the_page(evaluate, saved):
    folder = Path("<b>&saved")
    saved[0].rename(folder)
    (folder / "a.png").rename(folder / "<script>alert(1)</script>.png".replace("/", "-"))
    (saved[1] / "a.png").rename(saved[1] / "<script>alert(1)</script>.png".replace("/", "-"))
    words = [*folders("predictions", (folder, saved[1])), "--classes", "3"]
    assert evaluate(*words, "--report", "page.html").exit_code == 0
    page = Path("page.html").read_text()
    assert "<script>alert" not in page and "<b>&saved" not in page
    assert "&lt;script&gt;alert(1)&lt;-script&gt;" in page and "&lt;b&gt;&amp;saved" in page


def test_saved_predictions_score_as_the_network(evaluate, trained, data_folder):
    images = [str(data_folder / n) for n in (data_folder / "val_images.txt").read_text().split()]
    words = ["predict", *images, "--weights", str(trained.folder), "--save", "index,colour"]
    assert CliRunner().invoke(app, words).exit_code == 0
    expected = scores(evaluate(trained.folder, "--json"))
    for kind in ("index", "colour"):  # palette indices are class ids
        saved = (Path("predictions") / kind, data_folder / "labels")
        found = scores(evaluate(*folders("predictions", saved), "--json", "--partial"))
        protocol, part = found.pop("protocol"), ("partial", "expected", "failed")
        assert [found.pop(key) for key in part] == [True, 17, []]
        assert found == {key: expected[key] for key in found}
        seen = {"scales", "flip", "tile", "run", "verified", "mean", "std", "mean_std_source"}
        assert expected.keys() - found.keys() == {"checkpoint", "split", *part} | seen
        assert (protocol["prediction_ids"], protocol["resize_to"]) == ("class-ids", None)
        assert (protocol["pairs"], protocol["labels_without_image"]) == (5, 12)


@pytest.fixture
def saved(tmp_path) -> tuple[Path, Path]:
    """A prediction and its label, of classes 0 to 2."""
    for folder, values in (("saved", [[0, 1, 2, 2]]), ("deep/er/truth", [[0, 1, 1, 255]])):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / folder / "a.png")
    return Path("saved"), Path("deep/er/truth")


INFO = {"classes": ["cat", "dog", "owl"], "colours": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}


@pytest.mark.parametrize("place", ["deep/er/truth", "deep/er", "deep"])
def test_classes_come_from_info_json_above_the_labels(evaluate, saved, place):
    (Path(place) / "info.json").write_text(json.dumps(INFO))
    words = [*folders("predictions", saved), "--json"]
    found = scores(evaluate(*words))
    assert found["iou"] == {"cat": 1, "dog": 1 / 2, "owl": 0}
    assert scores(evaluate(*words, "--classes", "3")) == found
    other = scores(evaluate(*words, "--classes", "4"))
    assert other["iou"] == {"class 0": 1, "class 1": 1 / 2, "class 2": 0, "class 3": None}
    assert other["absent_classes"] == ["class 3"]


@pytest.mark.parametrize("ids", ["label-ids", "train-ids"])
def test_cityscapes_ids_imply_the_number_of_classes(evaluate, saved, ids):
    Image.new("L", (4, 1), 7).save(saved[1] / "a.png")  # a class in both numberings
    words = [*folders("predictions", saved), "--labels-hold", ids, "--predictions-hold", ids]
    found = scores(evaluate(*words, "--json"))
    assert list(found["iou"]) == list(cityscapes().names)
    assert found["iou"]["road" if ids == "label-ids" else "traffic sign"] == 0
    assert found["iou"]["sidewalk"] == (None if ids == "label-ids" else 0)
    protocol = found["protocol"]
    assert (protocol["label_ids"], protocol["prediction_ids"]) == (ids, ids)


def test_ids_of_predictions_and_labels_are_detected(evaluate, saved):
    for folder, values in zip(saved, ([0, 1, 13, 13], [7, 8, 26, 4]), strict=True):
        Image.fromarray(np.array([values], np.uint8)).save(folder / "a.png")
    found = scores(evaluate(*folders("predictions", saved), "--json"))
    assert (found["pixel_accuracy"], np.sum(found["confusion_matrix"])) == (1, 3)
    protocol = found["protocol"]
    assert (protocol["label_ids"], protocol["prediction_ids"]) == ("label-ids", "train-ids")


def test_train_ids_in_file_names_imply_the_number_of_classes(evaluate, saved):
    for folder, kind in zip(saved, ("x", "gtFine_labelTrainIds"), strict=True):
        (folder / "a.png").rename(folder / f"ulm_000000_000019_{kind}.png")
    found = scores(evaluate(*folders("predictions", saved), "--json"))
    assert list(found["iou"]) == list(cityscapes().names)


def test_predictions_of_another_size_are_an_error_or_resized(evaluate, saved):
    Image.new("L", (8, 2), 1).save(saved[0] / "a.png")
    words = [*folders("predictions", saved), "--classes", "3", "--json"]
    error = evaluate(*words).exception
    assert isinstance(error, DrnError)
    assert "saved/a.png: is 8x2" in str(error)
    for size, pixels in (("label", 3), ("none", 12), ("2x1", 1)):
        found = scores(evaluate(*words, "--resize-to", size))
        assert np.sum(found["confusion_matrix"]) == pixels
        assert found["protocol"]["resize_to"] == size


@pytest.mark.parametrize("folder", ["[old]", "a[/b]"])
def test_brackets_in_names_are_printed(evaluate, saved, folder):
    shutil.copytree(saved[0], folder)
    result = evaluate(*folders("predictions", (Path(folder), saved[1])), "--classes", "3")
    assert result.exit_code == 0, result.output
    assert f"\nworst images in {folder}:\n" in result.stdout
    [line] = [line for line in result.stdout.splitlines() if "a.png" in line]
    assert line.split() == ["a.png", "50.00", "66.67"]


def test_long_name_does_not_hide_the_scores(evaluate, saved):
    folder = Path("d" * 100, "e" * 100)
    shutil.copytree(saved[0], folder)
    result = evaluate(*folders("predictions", (folder, saved[1])), "--classes", "3")
    shown = result.stdout[result.stdout.index("worst images") :]
    assert shown.startswith(f"worst images in {folder}:\n")
    assert "a.png" in shown and "66.67" in shown
