"""How scores came about, in one paragraph that a paper can quote and in fields for a program."""

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
    """How a network looked at images.

    Attributes:
        network: Architecture.
        weights: Its file.
        view: Sizes, mirrored, tiles.
        autocast: What it computed in where that is safe; None is float32 throughout.
        normalization: Mean and standard deviation of its inputs, and where they come from.
    """

    network: Architecture
    weights: Path
    view: Eval
    autocast: torch.dtype | None
    normalization: Normalization

    @property
    def precision(self) -> str:
        return str(self.autocast or torch.float32).removeprefix("torch.")

    def text(self) -> str:
        """Say it in whole sentences."""
        parts = [
            f"The network is {self.network.label} with {self.weights.name}, in {self.precision}."
        ]
        normalized = self.normalization
        parts.append(f"Inputs were normalized by {normalized.text()} ({normalized.source}).")
        if self.view.scales != (1.0,):
            scales = ", ".join(f"{scale:g}" for scale in self.view.scales)
            parts.append(
                f"Each image was seen at {scales} of its size (bicubic), the log-probabilities "
                "resized back (bilinear, anti-aliased) and summed."
            )
        parts.append(f"Mirrored images were {'seen too' if self.view.flip else 'not seen'}.")
        if self.view.tile is not None:
            parts.append(f"Images were seen in overlapping tiles of {self.view.tile} pixels.")
        return " ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Give it ready for JSON."""
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
    """What was compared with what, and how.

    Attributes:
        images: Where the images, or the predictions, are.
        labels: Where their label maps are.
        pairs: What belonged together.
        label_ids: Which ids the label maps hold.
        size: What was brought to which size; None if all had one.
        seen: How a network saw the images; or which ids given predictions hold.
    """

    images: Path
    labels: Path
    pairs: FolderPairs
    label_ids: Ids
    size: Size | None
    seen: InferenceSettings | Ids

    def to_json(self, scores: SegmentationScores) -> dict[str, Any]:
        """Give it ready for JSON, its text too."""
        size, pairs = self.size, self.pairs
        told = {
            "text": self.text(scores),
            "drn": __version__,
            "images": str(self.images),
            "labels": str(self.labels),
            "paired_by": pairs.by,
            "pairs": scores.images,
            "images_without_label": len(pairs.images_without_label),
            "labels_without_image": len(pairs.labels_without_image),
            "label_ids": self.label_ids,
            "resize_to": "x".join(map(str, size)) if isinstance(size, tuple) else size,
        }
        if isinstance(self.seen, InferenceSettings):
            return told | self.seen.to_json()
        return told | {"prediction_ids": self.seen}

    def text(self, scores: SegmentationScores) -> str:
        """Say it in whole sentences."""
        pairs, seen, classes = self.pairs, sum(i is not None for i in scores.iou), len(scores.iou)
        lone = ((pairs.images_without_label, "file"), (pairs.labels_without_image, "label map"))
        left = [_count(len(paths), what) for paths, what in lone if paths]
        verb = (
            "was"
            if len(pairs.images_without_label) + len(pairs.labels_without_image) == 1
            else "were"
        )
        left_out = f"; {' and '.join(left)} without a counterpart {verb} left out" if left else ""
        if scores.failed:
            left_out += f"; {_count(len(scores.failed), 'pair')} failed"
        absent = "" if seen == classes else ", the others occurring nowhere"
        return " ".join(
            [
                f"Scored with drn {__version__}: {_count(scores.images, 'pair')}, "
                f"matched by "
                f"{pairs.by}{left_out}.",
                self.seen.text()
                if isinstance(self.seen, InferenceSettings)
                else f"The predictions were given as {IDS[self.seen]}.",
                f"The label maps hold {IDS[self.label_ids]}.",
                self._sizes(),
                "One confusion matrix was counted over all pixels of all pairs whose label is a "
                f"class; mIoU is the mean of TP / (TP + FP + FN) over {seen} of {classes} classes"
                f"{absent}, accuracy the share of these pixels that is right.",
            ]
        )

    def _sizes(self) -> str:
        kind, way = (
            ("Images", "bicubic")
            if isinstance(self.seen, InferenceSettings)
            else ("Predictions", "nearest")
        )
        if isinstance(self.size, tuple):
            width, height = self.size
            return f"{kind} ({way}) and label maps (nearest) were brought to {width}x{height}."
        return {
            "label": f"{kind} were brought to the size of their label maps ({way}).",
            "none": f"Label maps were brought to the size of their {kind.lower()} (nearest).",
            None: f"{kind} have the size of their label maps.",
        }[self.size]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
