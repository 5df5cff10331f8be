"""Galleries of real networks on real pictures."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drn_cli.data.class_folders import ClassFolder
from drn_cli.data.folders import ListFolder
from drn_cli.data.images import read_image, read_label
from drn_cli.errors import DrnError
from drn_cli.evaluation.classification import score
from drn_cli.evaluation.confusion import PictureScores, confusion
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.report.gallery import make_gallery
from drn_cli.report.pictures import ClassifiedPicture, SegmentedPicture
from drn_cli.runs import Run

from .folders import ALONE


def copied(run: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(run.folder, tmp_path / "run")))


def test_it_shows_what_the_best_network_predicts(segmentation_run: Run, data_folder: Path) -> None:
    gallery = make_gallery(segmentation_run, 3)
    assert gallery.intro == "The best network on 3, evenly spaced, of the 5 validation pictures."
    assert gallery.class_set is not None
    assert gallery.class_set.names == ("red", "green", "blue")
    assert [picture.name for picture in gallery.pictures] == [
        f"pictures/{n}.png" for n in (100, 102, 104)
    ]
    predictor = load_predictor(segmentation_run.best, ALONE.device)
    sample = ListFolder.open(data_folder).samples("val")[2]
    assert sample.label is not None
    label, prediction = read_label(sample.label), predictor(read_image(sample.image)).numpy()
    shown = gallery.pictures[1]
    assert isinstance(shown, SegmentedPicture)
    valid = label != 255
    assert shown.right == pytest.approx((label == prediction)[valid].mean())
    assert 0 < shown.right < 1
    matrix = confusion(torch.from_numpy(prediction), torch.from_numpy(label), 3).numpy()
    assert shown.miou == PictureScores.of(matrix, 0, "", "").miou
    for content, expected in ((shown.label, label), (shown.prediction, prediction)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)
    name, share = shown.label_classes[0]
    number = gallery.class_set.names.index(name)
    assert share == pytest.approx((label[valid] == number).mean())


def test_each_picture_is_reported(segmentation_run: Run) -> None:
    steps: list[tuple[int, int]] = []
    gallery = make_gallery(segmentation_run, 100, step=lambda *done: steps.append(done))
    assert gallery.intro == "The best network on all 5 validation pictures."
    assert len(gallery.pictures) == 5
    assert steps == [(n, 5) for n in range(1, 6)]


def test_data_elsewhere(segmentation_run: Run, data_folder: Path, tmp_path: Path) -> None:
    run = copied(segmentation_run, tmp_path)
    run.recipe.write_text(run.recipe.read_text().replace(str(data_folder), "/nowhere"))
    with pytest.raises(DrnError, match="/nowhere: no such data folder"):
        make_gallery(run, 2)
    assert len(make_gallery(run, 2, data_folder).pictures) == 2


def test_a_picture_of_void_alone_has_nothing_to_score(
    segmentation_run: Run, own_data_folder: Path
) -> None:
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(own_data_folder / "labels" / "100.png")
    [shown] = make_gallery(segmentation_run, 1, own_data_folder).pictures
    assert isinstance(shown, SegmentedPicture)
    assert (shown.miou, shown.right, shown.label_classes) == (None, None, ())


def test_before_the_first_validation_there_is_none(segmentation_run: Run, tmp_path: Path) -> None:
    run = copied(segmentation_run, tmp_path)
    run.best.unlink()
    with pytest.raises(DrnError, match=r"best\.safetensors: not there yet"):
        make_gallery(run, 2)


def test_a_classifiers_guesses_are_those_that_are_scored(
    classification_run: Run, birds: Path
) -> None:
    gallery = make_gallery(classification_run, 6)
    assert gallery.class_set is None
    shown = [picture for picture in gallery.pictures if isinstance(picture, ClassifiedPicture)]
    assert [picture.truth for picture in shown] == ["robin", "robin", "tit", "tit", "wren", "wren"]
    folder = ClassFolder.open(birds)
    classifier = load_classifier(classification_run.best, ALONE.device, crop=32, resize=40)
    scores = score(classifier, folder.samples("val"), ALONE)
    assert scores is not None
    assert sum(picture.is_right for picture in shown) == pytest.approx(6 * scores.top1)
    for picture in shown:
        assert picture.is_right == (picture.guesses[0][0] == picture.truth)
        shares = [share for _, share in picture.guesses]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)  # of three classes, all are named
        assert Image.open(io.BytesIO(picture.picture)).size == (32, 32)


def test_other_class_folders_are_refused(classification_run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(tmp_path / split / name / "0.png")
    with pytest.raises(DrnError, match="the class one is none of the network's 3"):
        make_gallery(classification_run, 2, tmp_path)


def test_class_folders_of_other_names_are_refused(classification_run: Run, tmp_path: Path) -> None:
    """As `drn eval` refuses them: the third folder is not the network's third class."""
    for name in ("owl", "robin", "tit"):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(tmp_path / split / name / "0.png")
    with pytest.raises(DrnError, match="owl"):
        make_gallery(classification_run, 3, tmp_path)


def test_a_device_without_memory_is_a_reason(
    segmentation_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr("drn_cli.report.gallery.load_predictor", full)
    with pytest.raises(DrnError, match="its memory is too small or in use"):
        make_gallery(segmentation_run, 1)
