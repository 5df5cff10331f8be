"""What is said of how scores came about."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drn_cli import __version__
from drn_cli.data.folders import IMAGENET, Sample
from drn_cli.evaluation.confusion import SegmentationScores
from drn_cli.evaluation.folder_pairs import FolderPairs
from drn_cli.evaluation.label_maps import Ids, Size
from drn_cli.evaluation.protocol import EvalProtocol, InferenceSettings
from drn_cli.inference.normalization import Normalization
from drn_cli.networks.catalog import ARCHITECTURES
from drn_cli.recipe.schema import MULTI_SCALE, Eval

IMAGES, LABELS = Path("made/by us"), Path("gtFine/val")
SAMPLES = [Sample(IMAGES / f"{n}.png", LABELS / f"{n}.png") for n in range(7)]
PAIRS = FolderPairs(SAMPLES, "name (labels: the same stem, 7 pairs)", [], [])


def scores(absent: int = 0) -> SegmentationScores:
    """Give scores of five classes, the last of which do not occur."""
    matrix = np.zeros((5, 6), np.int64)
    matrix[range(5 - absent), range(5 - absent)] = 3
    return SegmentationScores.of(matrix, images=7)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"numbers")
    return path


def seen(weights: Path, autocast: torch.dtype | None = None, **view: object) -> InferenceSettings:
    normalized = Normalization(IMAGENET, "option")
    return InferenceSettings(
        ARCHITECTURES["drn_d_105"], weights, Eval(**view), autocast, normalized
    )


def protocol(
    seen: InferenceSettings | Ids,
    size: Size | None = None,
    label_ids: Ids = "class-ids",
    pairs: FolderPairs = PAIRS,
) -> EvalProtocol:
    return EvalProtocol(IMAGES, LABELS, pairs, label_ids, size, seen)


def test_text_of_a_network_says_all_that_was_done(weights: Path) -> None:
    told = protocol(seen(weights), "label", "label-ids").text(scores())
    assert told == (
        f"Scored with drn {__version__}: 7 pairs, matched by name (labels: the same stem, 7 "
        "pairs). The network is drn_d_105 with best.safetensors, in float32. Inputs were "
        "normalized by mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 (option). Mirrored "
        "images were not seen. The label maps hold Cityscapes label ids, mapped to the 19 "
        "train ids. "
        "Images were brought to the size of their label maps (bicubic). One confusion matrix "
        "was counted over all pixels of all pairs whose label is a class; mIoU is the mean of "
        "TP / (TP + FP + FN) over 5 of 5 classes, accuracy the share of these pixels that is "
        "right."
    )


def test_text_of_predictions_says_all_that_was_done() -> None:
    told = protocol("train-ids", None, "label-ids").text(scores())
    assert told == (
        f"Scored with drn {__version__}: 7 pairs, matched by name (labels: the same stem, 7 "
        "pairs). The predictions were given as Cityscapes train ids. The label maps hold "
        "Cityscapes label ids, mapped to the 19 train ids. Predictions have the size of their "
        "label maps. One confusion matrix was counted over all pixels of all pairs whose label "
        "is a class; mIoU is the mean of TP / (TP + FP + FN) over 5 of 5 classes, accuracy the "
        "share of these pixels that is right."
    )


def test_scales_mirrored_images_tiles_and_precision_are_told(weights: Path) -> None:
    of = seen(weights, torch.bfloat16, scales=MULTI_SCALE, flip=True, tile=640)
    text = protocol(of, "label").text(scores())
    assert "in bfloat16." in text
    assert "seen at 0.5, 0.75, 1, 1.25, 1.5, 1.75 of its size (bicubic), the log-probabi" in text
    assert "resized back (bilinear, anti-aliased) and summed." in text
    assert "Mirrored images were seen too." in text
    assert "overlapping tiles of 640 pixels." in text
    plain = protocol(seen(weights), "label").text(scores())
    assert "scale" not in plain
    assert "tiles" not in plain


@pytest.mark.parametrize(
    ("size", "of_images", "of_predictions"),
    [
        (
            "label",
            "Images were brought to the size of their label maps (bicubic).",
            "Predictions were brought to the size of their label maps (nearest).",
        ),
        (
            "none",
            "Label maps were brought to the size of their images (nearest).",
            "Label maps were brought to the size of their predictions (nearest).",
        ),
        (
            (512, 256),
            "Images (bicubic) and label maps (nearest) were brought to 512x256.",
            "Predictions (nearest) and label maps (nearest) were brought to 512x256.",
        ),
        (
            None,
            "Images have the size of their label maps.",
            "Predictions have the size of their label maps.",
        ),
    ],
)
def test_sizes_are_told(
    weights: Path, size: Size | None, of_images: str, of_predictions: str
) -> None:
    assert of_images in protocol(seen(weights), size).text(scores())
    assert of_predictions in protocol("class-ids", size).text(scores())


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("label-ids", "Cityscapes label ids, mapped to the 19 train ids."),
        ("train-ids", "Cityscapes train ids."),
        ("class-ids", "class ids."),
    ],
)
def test_ids_are_told(ids: Ids, words: str) -> None:
    text = protocol(ids, None, ids).text(scores())
    assert f"The predictions were given as {words}" in text
    assert f"The label maps hold {words}" in text


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (0, 0, "7 pairs)."),
        (2, 0, "7 pairs); 2 files without a counterpart were left out."),
        (0, 3, "7 pairs); 3 label maps without a counterpart were left out."),
        (2, 3, "7 pairs); 2 files and 3 label maps without a counterpart were left out."),
    ],
)
def test_what_was_left_out_is_told(images: int, labels: int, words: str) -> None:
    pairs = FolderPairs(SAMPLES, PAIRS.by, [IMAGES] * images, [LABELS] * labels)
    made = protocol("class-ids", pairs=pairs)
    assert words in made.text(scores())
    told = made.to_json(scores())
    assert (told["images_without_label"], told["labels_without_image"]) == (images, labels)


def test_classes_that_occur_nowhere_are_told() -> None:
    text = protocol("class-ids").text(scores(absent=2))
    assert "over 3 of 5 classes, the others occurring nowhere, accuracy" in text


def test_json_of_a_network(weights: Path) -> None:
    made = protocol(
        seen(weights, torch.float16, scales=(0.5, 1), flip=True, tile=64), (512, 256), "train-ids"
    )
    assert json.loads(json.dumps(made.to_json(scores()))) == {
        "text": made.text(scores()),
        "drn": __version__,
        "images": "made/by us",
        "labels": "gtFine/val",
        "paired_by": PAIRS.by,
        "pairs": 7,
        "images_without_label": 0,
        "labels_without_image": 0,
        "label_ids": "train-ids",
        "resize_to": "512x256",
        "arch": "drn_d_105",
        "width": 1.0,
        "checkpoint": str(weights),
        "sha256": hashlib.sha256(b"numbers").hexdigest(),
        "scales": [0.5, 1],
        "flip": True,
        "tile": 64,
        "precision": "float16",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "mean_std_source": "option",
    }


@pytest.mark.parametrize("size", ["label", "none", None])
def test_json_of_predictions(size: Size | None) -> None:
    made = protocol("label-ids", size, "class-ids")
    assert json.loads(json.dumps(made.to_json(scores()))) == {
        "text": made.text(scores()),
        "drn": __version__,
        "images": "made/by us",
        "labels": "gtFine/val",
        "paired_by": PAIRS.by,
        "pairs": 7,
        "images_without_label": 0,
        "labels_without_image": 0,
        "label_ids": "class-ids",
        "resize_to": size,
        "prediction_ids": "label-ids",
    }
