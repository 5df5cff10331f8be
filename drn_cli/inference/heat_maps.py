"""Activation maps as files: laid over the image as colours, and as arrays."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from drn_cli.data.images import Pixels
from drn_cli.inference.activation import Boxes, ClassActivationMap

OPACITY = 0.5
FRAME = 0.004  # width of a box's line, as a share of the longer side


def heat_overlay(
    image: Pixels, found: ClassActivationMap, kind: int, box: npt.NDArray[np.float64] | None = None
) -> Pixels:
    """Lay a class's map over its image, from blue for its lowest value to red, and draw its box.

    Args:
        image: `(H, W, 3)`.
        found: What was seen of it.
        kind: The class.
        box: xmin, ymin, xmax, ymax; NaN for none.

    Returns:
        uint8 `(H, W, 3)`.
    """
    levels = np.rint(255 * found.heat(kind)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    mixed = np.asarray(cv2.addWeighted(image, 1 - OPACITY, colours, OPACITY, 0), np.uint8)
    if box is not None and not np.isnan(box).any():
        corners = np.rint(box).astype(int).tolist()
        line = max(1, round(FRAME * max(image.shape)))
        for colour, width in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
            cv2.rectangle(mixed, tuple(corners[:2]), tuple(corners[2:]), colour, width)
    return mixed


def arrays(
    found: ClassActivationMap,
    classes: Sequence[int],
    names: Sequence[str],
    boxes: Boxes,
    thresholds: Sequence[float],
) -> bytes:
    """Make the content of an npz file.

    It holds `maps`, float32 `(K, h, w)`, of some classes; their numbers, `classes`, `names` and
    `probabilities`; the `thresholds` and `boxes`, `(K, thresholds, 4)`, in pixels of the image,
    NaN for none; the image's `size`, and `seen`, the top, left, height and width of what the
    maps are of.
    """
    file = io.BytesIO()
    np.savez_compressed(
        file,
        maps=found.maps[list(classes)].numpy(),
        classes=np.array(classes),
        names=np.array([names[kind] for kind in classes]),
        probabilities=found.probabilities[list(classes)].numpy(),
        thresholds=np.array(thresholds),
        boxes=boxes,
        size=np.array(found.size),
        seen=np.array(found.seen),
    )
    return file.getvalue()
