"""Evaluation protocol of scores: a paragraph to quote in a paper, and fields for JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drn_cli.evaluation.confusion import SegmentationScores
from drn_cli.evaluation.folder_pairs import FolderPairs
from drn_cli.evaluation.label_maps import Ids, Size
from drn_cli.files import sha256
from drn_cli.inference.normalization import Normalization
from drn_cli.networks.catalog import Architecture
from drn_cli.recipe.schema import Eval
from drn_cli.version import __version__

IDS = {
    "label-ids": "Cityscapes label ids, mapped to the 19 train ids",
    "train-ids": "Cityscapes train ids",
    "class-ids": "class ids",
}


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Settings that a network predicted with."""

    network: Architecture
    weights: Path  # file of the weights
    view: Eval  # scales, flip and tile size
    autocast: torch.dtype | None  # None is float32 throughout
    normalization: Normalization  # mean and standard deviation of the inputs, and their source

    @property
    def precision(self) -> str:
        return str(self.autocast or torch.float32).removeprefix("torch.")

    def text(self) -> str:
        parts = [
            f"The network is {self.network.label} with {self.weights.name}, in {self.precision}."
        ]
        normalized = self.normalization
        parts.append(f"Inputs were normalized by {normalized.text()} ({normalized.source}).")
        if self.view.scales != (1.0,):
            scales = ", ".join(f"{scale:g}" for scale in self.view.scales)
            parts.append(
                f"Multi-scale inference used scales {scales} (bicubic); log-probabilities were "
                "resized back (bilinear, anti-aliased) and summed."
            )
        parts.append(f"Horizontally flipped images were {'' if self.view.flip else 'not '}used.")
        if self.view.tile is not None:
            parts.append(f"Inference used overlapping tiles of {self.view.tile} pixels.")
        return " ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "arch": self.network.name,
            "width": self.network.width,
            "checkpoint": str(self.weights),
            "sha256": sha256(self.weights),
            "scales": list(self.view.scales),
            "flip": self.view.flip,
            "tile": self.view.tile,
            "precision": self.precision,
            **self.normalization.to_json(),
        }


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """Protocol of an evaluation of a folder of images or predictions."""

    images: Path  # folder of the images or predictions
    labels: Path  # folder of the label maps
    pairs: FolderPairs  # the pairs found
    label_ids: Ids  # which ids the label maps hold
    size: Size | None  # what was resized to which size; None if sizes had to be equal
    # Settings of the network, or which ids saved predictions hold
    predicted_by: InferenceSettings | Ids

    def to_json(self, scores: SegmentationScores) -> dict[str, Any]:
        size, pairs = self.size, self.pairs
        fields = {
            "text": self.text(scores),
            "drn": __version__,
            "images": str(self.images),
            "labels": str(self.labels),
            "paired_by": pairs.matched_by,
            "pairs": scores.images,
            "images_without_label": len(pairs.unpaired_images),
            "labels_without_image": len(pairs.unpaired_labels),
            "label_ids": self.label_ids,
            "resize_to": "x".join(map(str, size)) if isinstance(size, tuple) else size,
        }
        if isinstance(self.predicted_by, InferenceSettings):
            return fields | self.predicted_by.to_json()
        return fields | {"prediction_ids": self.predicted_by}

    def text(self, scores: SegmentationScores) -> str:
        """Return the protocol as a paragraph."""
        pairs, classes = self.pairs, len(scores.iou)
        present = sum(iou is not None for iou in scores.iou)
        absent = "" if present == classes else " (the others are absent)"
        if isinstance(self.predicted_by, InferenceSettings):
            article, kind, resampling = "an", "image", "bicubic"
            predicted = self.predicted_by.text()
        else:
            article, kind, resampling = "a", "prediction", "nearest"
            predicted = f"The saved predictions hold {IDS[self.predicted_by]}."
        excluded = [
            f"{_count(number, noun)}{reason}"
            for number, noun, reason in (
                (len(pairs.unpaired_images), kind, " without a label map"),
                (len(pairs.unpaired_labels), "label map", f" without {article} {kind}"),
                (len(scores.failed), "pair", " that failed"),
            )
            if number
        ]
        left_out = f"; excluded: {', '.join(excluded)}" if excluded else ""
        plural = kind.capitalize() + "s"
        if isinstance(self.size, tuple):
            width, height = self.size
            resized = f"{plural} ({resampling}) and label maps (nearest) were resized to "
            resized += f"{width}x{height}."
        else:
            resized = {
                "label": f"{plural} were resized to their label maps ({resampling}).",
                "none": f"Label maps were resized to their {kind}s (nearest).",
                None: f"{plural} have the size of their label maps.",
            }[self.size]
        return " ".join(
            [
                f"Scored with drn {__version__}: {_count(scores.images, 'pair')}, "
                f"matched by {pairs.matched_by}{left_out}.",
                predicted,
                f"The label maps hold {IDS[self.label_ids]}.",
                resized,
                "One confusion matrix was accumulated over the non-void pixels of all pairs; "
                f"mIoU is the mean of TP / (TP + FP + FN) over {present} of {classes} classes"
                f"{absent}, accuracy the fraction of these pixels that are correct.",
            ]
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
