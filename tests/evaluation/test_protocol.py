"""Text and JSON of the evaluation protocol."""

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
    """Return scores of five classes, the last of which are absent."""
    matrix = np.zeros((5, 6), np.int64)
    matrix[range(5 - absent), range(5 - absent)] = 3
    return SegmentationScores.of(matrix, images=7)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"numbers")
    return path


def settings(
    weights: Path, autocast: torch.dtype | None = None, **view: object
) -> InferenceSettings:
    normalized = Normalization(IMAGENET, "option")
    return InferenceSettings(
        ARCHITECTURES["drn_d_105"], weights, Eval(**view), autocast, normalized
    )


def protocol(
    predicted_by: InferenceSettings | Ids,
    size: Size | None = None,
    label_ids: Ids = "class-ids",
    pairs: FolderPairs = PAIRS,
) -> EvalProtocol:
    return EvalProtocol(IMAGES, LABELS, pairs, label_ids, size, predicted_by)


def test_text_of_a_network(weights: Path) -> None:
    text = protocol(settings(weights), "label", "label-ids").text(scores())
    assert text == (
        f"Scored with drn {__version__}: 7 pairs, matched by name (labels: the same stem, 7 "
        "pairs). The network is drn_d_105 with best.safetensors, in float32. Inputs were "
        "normalized by mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 (option). Horizontally "
        "flipped images were not used. The label maps hold Cityscapes label ids, mapped to the 19 "
        "train ids. Images were resized to their label maps (bicubic). One confusion matrix was "
        "accumulated over the non-void pixels of all pairs; mIoU is the mean of TP / (TP + FP + "
        "FN) over 5 of 5 classes, accuracy the fraction of these pixels that are correct."
    )


def test_text_of_saved_predictions() -> None:
    text = protocol("train-ids", None, "label-ids").text(scores())
    assert text == (
        f"Scored with drn {__version__}: 7 pairs, matched by name (labels: the same stem, 7 "
        "pairs). The saved predictions hold Cityscapes train ids. The label maps hold Cityscapes "
        "label ids, mapped to the 19 train ids. Predictions have the size of their label maps. "
        "One confusion matrix was accumulated over the non-void pixels of all pairs; mIoU is the "
        "mean of TP / (TP + FP + FN) over 5 of 5 classes, accuracy the fraction of these pixels "
        "that are correct."
    )


def test_text_of_scales_flip_tiles_and_precision(weights: Path) -> None:
    of = settings(weights, torch.bfloat16, scales=MULTI_SCALE, flip=True, tile=640)
    text = protocol(of, "label").text(scores())
    assert "in bfloat16." in text
    assert "used scales 0.5, 0.75, 1, 1.25, 1.5, 1.75 (bicubic); log-probabilities were" in text
    assert "resized back (bilinear, anti-aliased) and summed." in text
    assert "Horizontally flipped images were used." in text
    assert "overlapping tiles of 640 pixels." in text
    plain = protocol(settings(weights), "label").text(scores())
    assert "scale" not in plain
    assert "tiles" not in plain


@pytest.mark.parametrize(
    ("size", "of_images", "of_predictions"),
    [
        (
            "label",
            "Images were resized to their label maps (bicubic).",
            "Predictions were resized to their label maps (nearest).",
        ),
        (
            "none",
            "Label maps were resized to their images (nearest).",
            "Label maps were resized to their predictions (nearest).",
        ),
        (
            (512, 256),
            "Images (bicubic) and label maps (nearest) were resized to 512x256.",
            "Predictions (nearest) and label maps (nearest) were resized to 512x256.",
        ),
        (
            None,
            "Images have the size of their label maps.",
            "Predictions have the size of their label maps.",
        ),
    ],
)
def test_text_of_sizes(
    weights: Path, size: Size | None, of_images: str, of_predictions: str
) -> None:
    assert of_images in protocol(settings(weights), size).text(scores())
    assert of_predictions in protocol("class-ids", size).text(scores())


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("label-ids", "Cityscapes label ids, mapped to the 19 train ids."),
        ("train-ids", "Cityscapes train ids."),
        ("class-ids", "class ids."),
    ],
)
def test_text_of_ids(ids: Ids, words: str) -> None:
    text = protocol(ids, None, ids).text(scores())
    assert f"The saved predictions hold {words}" in text
    assert f"The label maps hold {words}" in text


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (0, 0, "7 pairs)."),
        (2, 0, "7 pairs); excluded: 2 predictions without a label map."),
        (0, 3, "7 pairs); excluded: 3 label maps without a prediction."),
        (
            1,
            3,
            "excluded: 1 prediction without a label map, 3 label maps without a prediction.",
        ),
    ],
)
def test_text_and_json_of_files_left_out(images: int, labels: int, words: str) -> None:
    pairs = FolderPairs(SAMPLES, PAIRS.matched_by, [IMAGES] * images, [LABELS] * labels)
    made = protocol("class-ids", pairs=pairs)
    assert words in made.text(scores())
    found = made.to_json(scores())
    assert (found["images_without_label"], found["labels_without_image"]) == (images, labels)


def test_text_of_absent_classes() -> None:
    text = protocol("class-ids").text(scores(absent=2))
    assert "over 3 of 5 classes (the others are absent), accuracy" in text


def test_json_of_a_network(weights: Path) -> None:
    made = protocol(
        settings(weights, torch.float16, scales=(0.5, 1), flip=True, tile=64),
        (512, 256),
        "train-ids",
    )
    assert json.loads(json.dumps(made.to_json(scores()))) == {
        "text": made.text(scores()),
        "drn": __version__,
        "images": "made/by us",
        "labels": "gtFine/val",
        "paired_by": PAIRS.matched_by,
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
def test_json_of_saved_predictions(size: Size | None) -> None:
    made = protocol("label-ids", size, "class-ids")
    assert json.loads(json.dumps(made.to_json(scores()))) == {
        "text": made.text(scores()),
        "drn": __version__,
        "images": "made/by us",
        "labels": "gtFine/val",
        "paired_by": PAIRS.matched_by,
        "pairs": 7,
        "images_without_label": 0,
        "labels_without_image": 0,
        "label_ids": "class-ids",
        "resize_to": size,
        "prediction_ids": "label-ids",
    }
