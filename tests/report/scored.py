"""Networks with their scores, as the commands have them when they write a page."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.data.boxes import Box
from drn_cli.data.class_folders import ClassFolder
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListFolder, Sample
from drn_cli.evaluation.classification import TopScores, score
from drn_cli.evaluation.confusion import Scores
from drn_cli.evaluation.localization import LocalizationScores, Located, localize
from drn_cli.evaluation.segmentation import evaluate
from drn_cli.inference.activation import Kind, See
from drn_cli.inference.classifier import Classifier
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.predictor import PixelPredictor
from drn_cli.report.evaluation import write_classification_page, write_segmentation_page
from drn_cli.report.localization import write_localization_page
from drn_cli.report.pictures import SegmentedPicture, segmented_picture
from drn_cli.runs import Run

from .folders import ALONE
from .seeing import colour_classifier, painted, save

ABOUT = {"checkpoint": "runs/easy/best.safetensors", "split": "val"}

NAMES = ("<i>red", "green", "blue")
RED, GREEN, BLUE = range(3)
THRESHOLDS = (-math.inf, 1.0, 100.0)
WIDE = "wide <script>\"'&.png"
Corners = tuple[int, int, int, int]
# Pictures of height 64 by their name: width, what is painted on what is pale and scores as red but
# less than 1, and the true boxes. Beside them the overlap of the likeliest class's box at threshold
# 1, which is the best: without one, red's box holds all that is pale.
DRAWN: dict[str, tuple[int, dict[str, Corners], tuple[tuple[int, Corners], ...]]] = {
    "red.png": (96, {"red": (16, 8, 47, 39)}, ((RED, (16, 8, 47, 39)),)),  # 1
    "green.png": (96, {"green": (32, 16, 63, 47)}, ((GREEN, (40, 16, 71, 47)),)),  # 768 / 1280
    "two.png": (  # 0, but red's, the second class's, is right
        96,
        {"blue": (48, 0, 95, 63), "red": (0, 0, 31, 31)},
        ((RED, (0, 0, 31, 31)), (GREEN, (80, 40, 90, 60))),
    ),
    "pale.png": (96, {}, ((RED, (0, 0, 95, 31)),)),  # none is found
    WIDE: (704, {"green": (640, 0, 703, 63)}, ((GREEN, (640, 32, 703, 63)),)),  # 1 / 2: too little
}


@dataclass(frozen=True)
class Segmented:
    """A segmenter, scored on the validation of a data folder."""

    predictor: PixelPredictor
    samples: list[Sample]
    scores: Scores

    @classmethod
    def of(cls, run: Run, data: Path) -> "Segmented":
        samples = ListFolder.open(data).samples("val")
        predictor = load_predictor(run.best, ALONE.device)
        scores = evaluate(predictor, samples, ALONE, each=True)
        assert scores is not None
        return cls(predictor, samples, scores)

    def show(self, number: int) -> SegmentedPicture:
        image, label = read_pair(self.samples[number], self.predictor.classes)
        name = self.samples[number].image.name
        prediction = self.predictor(image).numpy()
        return segmented_picture(name, image, label, prediction, self.predictor.class_set)

    def write(self, path: Path, count: int = 24, **about: Any) -> Path:
        class_set = self.predictor.class_set
        told = ABOUT | about | self.scores.to_json(class_set)
        write_segmentation_page(path, told, self.scores, class_set, self.show, count)
        return path


@dataclass(frozen=True)
class Classified:
    """A classifier, scored on the validation of class folders."""

    classifier: Classifier
    scores: TopScores

    @classmethod
    def of(cls, run: Run, data: Path) -> "Classified":
        classifier = load_classifier(run.best, ALONE.device, crop=32, resize=40)
        scores = score(classifier, ClassFolder.open(data).samples("val"), ALONE, each=True)
        assert scores is not None
        return cls(classifier, scores)

    def write(self, path: Path, count: int = 24) -> Path:
        told = ABOUT | {"view": self.classifier.view} | self.scores.to_json()
        write_classification_page(path, told, self.scores, self.classifier, count)
        return path


@dataclass(frozen=True)
class Localized:
    """A classifier whose boxes were scored, and the pictures that they were found in."""

    classifier: Classifier
    pictures: list[Located]
    scores: LocalizationScores
    see: See
    kind: Kind

    @classmethod
    def of(
        cls,
        folder: Path,
        thresholds: tuple[float, ...] = THRESHOLDS,
        see: See = "whole",
        kind: Kind = "score",
    ) -> "Localized":
        """Paint the pictures of `DRAWN` into a folder, and look for boxes in them."""
        classifier = colour_classifier(NAMES)
        pictures = []
        for name, (width, rectangles, boxes) in DRAWN.items():
            image = save(folder / name, painted(64, width, **rectangles))
            true = tuple(Box(NAMES[number], *corners) for number, corners in boxes)
            pictures.append(Located(image, true, tuple(number for number, _ in boxes)))
        scores = localize(classifier, pictures, ALONE, thresholds, see=see, kind=kind, each=True)
        return cls(classifier, pictures, scores, see, kind)

    def write(self, path: Path, count: int = 24, checkpoint: str = "runs/boxes/best") -> Path:
        told = {"checkpoint": checkpoint, "of": self.kind, "see": self.see}
        write_localization_page(
            path,
            told | self.scores.to_json(),
            self.scores,
            self.pictures,
            self.classifier,
            self.see,
            self.kind,
            count,
        )
        return path
