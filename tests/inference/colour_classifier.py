"""A classifier with hand-set weights that scores colors at their positions.

The stem computes the contrast of each color over two by two pixels, the layers after it pass that
on, and the head scales it to a score. So the correct output for an image is known.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.catalog import Task
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.models import DRN

# Weights of red, green and blue for each color; `other` has a constant score.
CONTRASTS = {
    "red": (1.0, -0.5, -0.5),
    "green": (-0.5, 1.0, -0.5),
    "blue": (-0.5, -0.5, 1.0),
    "yellow": (0.5, 0.5, -1.0),
}
NAMES = (*CONTRASTS, "other")
WNIDS = tuple(f"n0000000{number}" for number in range(1, 6))
PAINT = {
    "red": (200, 40, 40),
    "green": (40, 200, 40),
    "blue": (40, 40, 200),
    "yellow": (190, 190, 30),
    "other": (128, 128, 128),
}
FAINT = 0.12  # contrast, in 0..1, that scores 0
GAIN = 10.0  # score of a contrast of 1
OTHER = 0.3  # score of `other`, everywhere
STATISTICS = ChannelStats((0.45, 0.5, 0.4), (0.25, 0.2, 0.3))
WIDTH = 0.125  # of the stock network's channels, fast to load
CELL = 8  # pixels per position


def score(name: str, rgb: Iterable[int]) -> float:
    """Return the correct score of a class on a large area of an RGB color."""
    if name == "other":
        return OTHER
    contrast = float(np.dot(CONTRASTS[name], np.array(rgb) / 255))
    return GAIN * max(0.0, contrast - FAINT)


@torch.no_grad()
def build(task: Task = "classification", names: Sequence[str] = NAMES, width: float = WIDTH) -> DRN:
    """Build the classifier, or a segmenter: a narrow drn_a_18 with residual branches of zero."""
    model = create_model("drn_a_18", task, len(names), width=width).eval()
    for parameter in model.parameters():
        parameter.zero_()
    convolution, norm = model.backbone.layer0[0], model.backbone.layer0[1]
    norm.weight.fill_(1)
    for channel, weights in enumerate(CONTRASTS.values()):
        # Pixels right and below of the kernel's center: those of a position lie in its own cell.
        for place, weight in enumerate(weights):
            convolution.weight[channel, place, 5:7, 5:7] = weight * STATISTICS.std[place] / 4
        norm.bias[channel] = np.dot(weights, STATISTICS.mean) - FAINT
    for channel in range(min(len(names), len(CONTRASTS))):
        model.head.weight[channel, channel] = GAIN
    if "other" in names:
        model.head.bias[names.index("other")] = OTHER
    for name, module in model.named_modules():
        if name.endswith("downsample"):
            assert isinstance(module, nn.Sequential)
            module[1].weight.fill_(1)
            for channel in range(len(CONTRASTS)):
                module[0].weight[channel, channel] = 1
    return model


def write(path: Path) -> Path:
    """Write a checkpoint of the classifier with complete metadata."""
    model = build()
    class_set = ClassSet(NAMES, tuple(PAINT[name] for name in NAMES))
    save_weights(path, model, to_metadata(model, STATISTICS, class_set, WNIDS))
    return path


def write_segmenter(
    path: Path, names: Sequence[str] = ("red", "green", "blue"), width: float = WIDTH
) -> Path:
    """Write a checkpoint of the segmenter, whose boundaries are at multiples of 8 pixels."""
    model = build("segmentation", names, width)
    class_set = ClassSet(tuple(names), tuple(PAINT[name] for name in names))
    save_weights(path, model, to_metadata(model, STATISTICS, class_set))
    return path


def write_run(folder: Path, *, side: int, resize: int, data: Path = Path("nowhere")) -> Path:
    """Write a run folder of the classifier, with a recipe."""
    write(folder / "checkpoints" / "best.safetensors")
    recipe = {
        "task": "classification",
        "model": {"arch": "drn_a_18", "width": WIDTH},
        "data": {"root": str(data), "classes": len(NAMES)},
        "augment": {"crop": side},
        "eval": {"resize": resize},
        "train": {"epochs": 1, "batch_size": 1, "lr": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def draw(
    height: int, width: int, painted: dict[str, tuple[int, int, int, int]], seed: int = 0
) -> Pixels:
    """Draw rectangles on gray noise: xmin, ymin, xmax, ymax by color, corner pixels included."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128.0)
    for name, (xmin, ymin, xmax, ymax) in painted.items():
        image[ymin : ymax + 1, xmin : xmax + 1] = PAINT[name]
    noisy = image + random.normal(0, 8, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def save(path: Path, image: Pixels) -> Path:
    """Write an image, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path
