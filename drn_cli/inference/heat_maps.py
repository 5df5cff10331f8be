"""Output files of class activation maps: an overlay on the image, and arrays."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from drn_cli.data.images import Pixels
from drn_cli.inference.activation import Boxes, ClassActivationMap

OPACITY = 0.5
LINE_WIDTH = 0.004  # of a box, relative to the longer side


def heat_map_overlay(
    image: Pixels,
    cam: ClassActivationMap,
    class_id: int,
    box: npt.NDArray[np.float64] | None = None,
) -> Pixels:
    """Blend the heat map of a class with its image, and draw its box.

    Args:
        image: `(H, W, 3)`.
        cam: Activation maps of the image.
        class_id: The class.
        box: xmin, ymin, xmax, ymax; NaN for no box.

    Returns:
        uint8 `(H, W, 3)`.
    """
    levels = np.rint(255 * cam.heat_map(class_id)).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    blended = np.asarray(cv2.addWeighted(image, 1 - OPACITY, colors, OPACITY, 0), np.uint8)
    if box is not None and not np.isnan(box).any():
        corners = np.rint(box).astype(int).tolist()
        line = max(1, round(LINE_WIDTH * max(image.shape)))
        for color, width in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
            cv2.rectangle(blended, tuple(corners[:2]), tuple(corners[2:]), color, width)
    return blended


def encode_npz(
    cam: ClassActivationMap,
    classes: Sequence[int],
    names: Sequence[str],
    boxes: Boxes,
    thresholds: Sequence[float],
) -> bytes:
    """Return an npz file of some classes' maps and boxes.

    Arrays: `maps`, float32 `(K, h, w)`; the ids, `names` and `probabilities` of the `classes`; the
    `thresholds` and `boxes`, `(K, thresholds, 4)`, in pixels of the image, NaN for no box; the
    image's `size`; `seen`, the top, left, height and width of the region that the maps cover.
    """
    file = io.BytesIO()
    np.savez_compressed(
        file,
        maps=cam.maps[list(classes)].numpy(),
        classes=np.array(classes),
        names=np.array([names[class_id] for class_id in classes]),
        probabilities=cam.probabilities[list(classes)].numpy(),
        thresholds=np.array(thresholds),
        boxes=boxes,
        size=np.array(cam.size),
        seen=np.array(cam.region),
    )
    return file.getvalue()
