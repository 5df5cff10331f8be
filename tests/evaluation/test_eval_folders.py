"""Images, and predictions, in one folder against label maps in another."""

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
def drawn(data_folder, tmp_path) -> tuple[Path, Path]:
    """The validation images, smaller, in one folder, and their label maps in another."""
    for folder in ("drawn", "truth/maps"):
        (tmp_path / folder).mkdir(parents=True)
    for name in (data_folder / "val_images.txt").read_text().split():
        image, stem = Image.open(data_folder / name), Path(name).stem
        image.resize((50, 37)).save(tmp_path / "drawn" / f"{stem}_drawn.png")
        label = data_folder / "labels" / f"{stem}.png"
        shutil.copy(label, tmp_path / "truth" / "maps" / f"{stem}.png")
    return Path("drawn"), Path("truth")


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
def test_drawn_images_against_labels(evaluate, trained, drawn, words, size):
    found = scores(
        evaluate("--weights", trained.folder, *folders("images", drawn), *words, "--json")
    )
    read, counts = PairReader(3, "class-ids", size), np.zeros((3, 3), int)
    predictor = load_predictor(best_of(trained), torch.device("cpu"))
    for path in sorted(drawn[0].iterdir()):
        name = path.name.replace("_drawn", "")
        image, label = read(Sample(path, drawn[1] / "maps" / name))
        valid = label != 255
        np.add.at(counts, (label[valid], predictor(image).numpy()[valid]), 1)
    assert found["confusion_matrix"] == counts.tolist()
    assert list(found["iou"]) == ["red", "green", "blue"]
    told = found["protocol"]
    assert told["resize_to"] == ("40x56" if size == (40, 56) else size)
    assert (told["images"], told["labels"], told["pairs"]) == ("drawn", "truth", 5)
    assert "images: stem + _drawn" in told["paired_by"]
    assert (told["label_ids"], told["scales"], told["precision"]) == ("class-ids", [1.0], "float32")
    assert told["checkpoint"] == found["checkpoint"] == str(best_of(trained))
    assert (found["run"], found["verified"]) == (str(trained.folder), True)
    assert told["sha256"] == hashlib.sha256(best_of(trained).read_bytes()).hexdigest()


def test_one_and_two_processes_give_the_same_files(evaluate, drn, trained, drawn, tmp_path):
    damage(MAPS / "102.png")
    words = [trained.folder, *folders("images", drawn), "--ms", "--json", "--partial"]
    one = evaluate(*words, "--csv", "one.csv")
    two = drn("eval", *words, "--csv", "two.csv", "--gpus", "2")
    assert one.exit_code == two.returncode == 1, two.stderr
    assert "error: " not in two.stderr  # an image that failed is no lost process
    assert one.stdout == two.stdout
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert json.loads(one.stdout)["protocol"]["scales"] == [0.5, 0.75, 1, 1.25, 1.5, 1.75]


def damage(path: Path) -> None:
    """Flip a bit of a PNG's pixels: its own checksum fails."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)


def lose(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


MAPS = Path("truth", "maps")
# What is done to the five pairs of `drawn`; what is said of it; scored, expected and exit code.
PARTS = {
    "images without a label": (
        lambda: lose(MAPS, "100.png", "101.png"),
        "drawn: 2 of 5 have no label map in truth: 100_drawn.png, 101_drawn.png",
        (3, 5, 0),
    ),
    "labels without an image": (
        lambda: lose(Path("drawn"), *(f"10{n}_drawn.png" for n in range(4))),
        "drawn: 4 of 5 have no image in drawn: maps/100.png, maps/101.png, maps/102.png and 1 more",
        (1, 5, 0),
    ),
    "both": (
        lambda: (lose(MAPS, "100.png"), lose(Path("drawn"), "104_drawn.png")),
        "drawn: 1 of 5 have no label map in truth: 100_drawn.png; "
        "1 of 5 have no image in drawn: maps/104.png",
        (3, 5, 0),
    ),
    "links to nothing on both sides": (
        lambda: [
            path.symlink_to("nothing") for path in (MAPS / "a.png", Path("drawn/a_drawn.png"))
        ],
        "drawn: left out: link to nothing 1 (a_drawn.png)",
        (5, 6, 0),
    ),
    "a link to nothing": (
        lambda: (lose(MAPS, "100.png"), (MAPS / "100.png").symlink_to("nothing")),
        "drawn: 1 of 5 have no label map in truth: 100_drawn.png",
        (4, 5, 0),
    ),
    "a damaged label map": (lambda: damage(MAPS / "102.png"), "truth/maps/102.png: ", (4, 5, 1)),
    "an image of another kind": (
        lambda: Path("drawn", "102_drawn.png").write_text("no image"),
        "drawn/102_drawn.png: ",
        (4, 5, 1),
    ),
}


@pytest.mark.parametrize("kind", ["images", "predictions"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_refused_unless_that_is_meant(evaluate, trained, drawn, kind, part, caplog):
    harm, said, (count, expected, code) = PARTS[part]
    words = folders(kind, drawn)
    if kind == "images":
        words = ["--weights", trained.folder, *words]
    else:  # the label maps themselves, of the right size, as predictions
        for path in drawn[0].iterdir():
            shutil.copy(MAPS / path.name.replace("_drawn", ""), path)
        words += ["--classes", "3"]
    harm()
    refused = evaluate(*words, "--json")
    assert isinstance(refused.exception, DrnError)
    assert refused.exception.message.startswith(said)
    if code == 0:
        assert refused.exception.hint == f"--partial scores {count} of them"
    result = evaluate(*words, "--json", "--partial", "--report", "page.html")
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert (found["partial"], found["images"], found["expected"]) == (True, count, expected)
    assert found["images"] == found["protocol"]["pairs"] == count
    assert f"warning: partial: {count} of {expected} scored: " in result.stderr
    assert said.removeprefix("drawn: ") in result.stderr + caplog.text
    assert [one["error"].startswith(said) for one in found["failed"]] == [True] * code
    assert f"{count} of {expected} (partial)" in Path("page.html").read_text()


def test_a_map_that_cannot_be_read_does_not_keep_the_others_from_saying_their_ids(evaluate, saved):
    for folder in saved:
        Image.new("L", (4, 1), 26).save(folder / "b.png")  # only as a label id
        (folder / "a.png").write_text("no map")
    words = [*folders("predictions", saved), "--classes", "19", "--json"]
    assert isinstance(evaluate(*words).exception, DrnError)
    found = json.loads(evaluate(*words, "--partial").stdout)
    assert (found["images"], found["protocol"]["label_ids"]) == (1, "label-ids")


def test_what_eval_writes_replaces_a_link_and_leaves_what_it_named(evaluate, saved):
    for name in ("scores.csv", "page.html"):
        Path(f"precious_{name}").write_text("precious")
        Path(name).symlink_to(f"precious_{name}")
    words = [*folders("predictions", saved), "--classes", "3"]
    result = evaluate(*words, "--csv", "scores.csv", "--report", "page.html")
    assert result.exit_code == 0, result.output
    for name in ("scores.csv", "page.html"):
        assert Path(f"precious_{name}").read_text() == "precious"
        assert not Path(name).is_symlink() and Path(name).stat().st_size > 100


def test_names_of_files_are_text_in_the_page(evaluate, saved):
    folder = Path("<b>&saved")
    saved[0].rename(folder)
    (folder / "a.png").rename(folder / "<script>alert(1)</script>.png".replace("/", "-"))
    (saved[1] / "a.png").rename(saved[1] / "<script>alert(1)</script>.png".replace("/", "-"))
    words = [*folders("predictions", (folder, saved[1])), "--classes", "3"]
    assert evaluate(*words, "--report", "page.html").exit_code == 0
    page = Path("page.html").read_text()
    assert "<script>alert" not in page and "<b>&saved" not in page
    assert "&lt;script&gt;alert(1)&lt;-script&gt;" in page and "&lt;b&gt;&amp;saved" in page


def test_saved_predictions_score_as_the_network_does(evaluate, trained, data_folder):
    images = [str(data_folder / n) for n in (data_folder / "val_images.txt").read_text().split()]
    words = ["predict", *images, "--weights", str(trained.folder), "--save", "index,colour"]
    assert CliRunner().invoke(app, words).exit_code == 0
    expected = scores(evaluate(trained.folder, "--json"))
    for kind in ("index", "colour"):  # the palette's indices are the ids
        saved = (Path("predictions") / kind, data_folder / "labels")
        found = scores(evaluate(*folders("predictions", saved), "--json", "--partial"))
        protocol, part = found.pop("protocol"), ("partial", "expected", "failed")
        assert [found.pop(key) for key in part] == [True, 5, 17, []]
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
def test_classes_are_those_of_info_above_the_labels(evaluate, saved, place):
    (Path(place) / "info.json").write_text(json.dumps(INFO))
    words = [*folders("predictions", saved), "--json"]
    found = scores(evaluate(*words))
    assert found["iou"] == {"cat": 1, "dog": 1 / 2, "owl": 0}
    assert scores(evaluate(*words, "--classes", "3")) == found
    other = scores(evaluate(*words, "--classes", "4"))
    assert other["iou"] == {"class 0": 1, "class 1": 1 / 2, "class 2": 0, "class 3": None}
    assert other["absent_classes"] == ["class 3"]


@pytest.mark.parametrize("ids", ["label-ids", "train-ids"])
def test_ids_of_cityscapes_say_how_many_classes_there_are(evaluate, saved, ids):
    Image.new("L", (4, 1), 7).save(saved[1] / "a.png")  # a class as either
    words = [*folders("predictions", saved), "--labels-hold", ids, "--predictions-hold", ids]
    found = scores(evaluate(*words, "--json"))
    assert list(found["iou"]) == list(cityscapes().names)
    assert found["iou"]["road" if ids == "label-ids" else "traffic sign"] == 0
    assert found["iou"]["sidewalk"] == (None if ids == "label-ids" else 0)
    told = found["protocol"]
    assert (told["label_ids"], told["prediction_ids"]) == (ids, ids)


def test_ids_of_predictions_and_labels_are_found_by_looking(evaluate, saved):
    for folder, values in zip(saved, ([0, 1, 13, 13], [7, 8, 26, 4]), strict=True):
        Image.fromarray(np.array([values], np.uint8)).save(folder / "a.png")
    found = scores(evaluate(*folders("predictions", saved), "--json"))
    assert (found["pixel_accuracy"], np.sum(found["confusion_matrix"])) == (1, 3)
    told = found["protocol"]
    assert (told["label_ids"], told["prediction_ids"]) == ("label-ids", "train-ids")


def test_name_of_train_ids_says_how_many_classes_there_are(evaluate, saved):
    for folder, kind in zip(saved, ("x", "gtFine_labelTrainIds"), strict=True):
        (folder / "a.png").rename(folder / f"ulm_000000_000019_{kind}.png")
    found = scores(evaluate(*folders("predictions", saved), "--json"))
    assert list(found["iou"]) == list(cityscapes().names)


def test_predictions_of_another_size_are_refused_or_resized(evaluate, saved):
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
def test_brackets_in_names_are_shown(evaluate, saved, folder):
    shutil.copytree(saved[0], folder)
    result = evaluate(*folders("predictions", (Path(folder), saved[1])), "--classes", "3")
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stdout.splitlines() if "a.png" in line]
    assert line.split() == [f"{folder}/a.png", "50.00", "66.67"]


def test_long_name_leaves_room_for_the_scores(evaluate, saved):
    folder = Path("d" * 100, "e" * 100)
    shutil.copytree(saved[0], folder)
    result = evaluate(*folders("predictions", (folder, saved[1])), "--classes", "3")
    shown = result.stdout[result.stdout.index("worst images") :]
    assert "e/a.png" in shown
    assert "66.67" in shown
