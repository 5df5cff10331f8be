"""Localisation errors as one HTML page: the sweep, and the worst and the best pictures."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from drn_cli.data.images import read_image
from drn_cli.evaluation.localization import (
    LocalizationScores,
    Located,
    PictureBoxes,
    is_right,
    worst_located,
)
from drn_cli.files import write_text
from drn_cli.inference.activation import Kind, See, activate
from drn_cli.inference.classifier import Classifier
from drn_cli.inference.heat_maps import heat_overlay
from drn_cli.report.evaluation import (
    best_from,
    command_line,
    counted,
    gallery_or_none,
    intro,
    worst_and_best,
)
from drn_cli.report.facts import definitions
from drn_cli.report.frame import page
from drn_cli.report.gallery import Gallery
from drn_cli.report.pictures import LocalizedPicture
from drn_cli.report.small_pictures import jpeg, small
from drn_cli.report.words import percent


def write_localization_page(
    path: Path,
    told: Mapping[str, Any],
    scores: LocalizationScores,
    pictures: Sequence[Located],
    classifier: Classifier,
    see: See,
    kind: Kind,
    count: int,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The file.
        told: What `drn localize --eval --json` tells.
        scores: With what was found in each picture.
        pictures: All that were scored.
        classifier: The network.
        see: What was seen of a picture.
        kind: What thresholds are of.
        count: How many pictures to show, at most.

    Raises:
        DrnError: A picture cannot be read any more, or the file not be written.
    """
    ordered = worst_located(scores)
    chosen = worst_and_best(ordered, count)
    best = scores.best
    shown = [_shown(one, pictures[one.number], classifier, see, kind, best) for one in chosen]
    which = intro(len(chosen), len(ordered), "the overlap of the likeliest class's box")
    gallery = Gallery(which, None, shown, best_from(len(chosen), len(ordered)))
    sections = [_header(told, scores), _sweep(scores), gallery_or_none(gallery)]
    write_text(path, page(f"Localisation: {told['checkpoint']}", sections))


def _shown(
    found: PictureBoxes, located: Located, classifier: Classifier, see: See, kind: Kind, best: int
) -> LocalizedPicture:
    image = read_image(located.image)
    first = found.classes[0]
    heat = heat_overlay(image, activate(classifier, image, see, kind), first)
    box = found.boxes[0, best]
    shown = small(image)
    return LocalizedPicture(
        name=str(located.image),
        size=(shown.shape[1], shown.shape[0]),
        picture=jpeg(shown),
        heat=jpeg(small(heat)),
        whole=(image.shape[1], image.shape[0]),
        true=tuple(
            (classifier.names[of], (true.xmin, true.ymin, true.xmax, true.ymax))
            for true, of in zip(located.boxes, located.classes, strict=True)
        ),
        found=None if np.isnan(box).any() else tuple(box.tolist()),
        guess=(classifier.names[first], found.probabilities[0]),
        iou=float(found.iou[0, best]),
        is_right=bool(is_right(found)[0, best]),
    )


def _header(told: Mapping[str, Any], scores: LocalizationScores) -> str:
    best = scores.best
    facts = [
        ("Top-1 error", percent(scores.top1[best], 2)),
        ("Top-5 error", percent(scores.top5[best], 2)),
        ("Top-1 error of classes", percent(scores.top1_classification, 2)),
        ("Top-5 error of classes", percent(scores.top5_classification, 2)),
        ("Best threshold", _limit(scores.thresholds[best])),
        ("Threshold of", str(told["of"])),
        ("Seen", str(told["see"])),
        ("Pictures", counted(told)),
    ]
    return (
        f"<header><h1>Localisation: {escape(str(told['checkpoint'])).replace('/', '/<wbr>')}</h1>"
        f'<p class="name">{escape(command_line())}</p>{definitions(facts, "tiles")}'
        "<p>A picture is right if a box of its class overlaps a true one by more than half. The "
        "threshold was chosen on these pictures. The heat is that of the likeliest class, from its "
        "lowest value in the picture to its highest; its box is around the positions where it is "
        "the highest of all classes, which need not be the hottest.</p></header>"
    )


def _sweep(scores: LocalizationScores) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_limit(limit)}{" (best)" if place == scores.best else ""}</th>'
        f'<td class="number">{percent(one, 2)}</td><td class="number">{percent(five, 2)}</td></tr>'
        for place, (limit, one, five) in enumerate(
            zip(scores.thresholds, scores.top1, scores.top5, strict=True)
        )
    )
    return (
        '<section id="sweep"><h2>Thresholds</h2><table class="list"><thead><tr>'
        '<th scope="col">threshold</th><th scope="col" class="number">top-1 error</th>'
        f'<th scope="col" class="number">top-5 error</th></tr></thead><tbody>{rows}</tbody></table>'
        "</section>"
    )


def _limit(threshold: float) -> str:
    return "none" if np.isneginf(threshold) else f"{threshold:g}"
