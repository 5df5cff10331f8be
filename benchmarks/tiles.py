"""Agreement of tiled prediction with prediction on whole images.

    python benchmarks/tiles.py --weights best.safetensors --images photographs

Each photograph is enlarged, so that several tiles are needed, and seen both ways. Printed is the
share of pixels that get the same class: of all, and of those away from the seams, the lines where
one tile hands over to the next. This depends on the network: one that was trained, with photographs
like those that it was trained on, says most.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from drn_cli.data.images import read_image
from drn_cli.inference.inputs import find_images
from drn_cli.inference.loading import load_predictor
from drn_cli.inference.tiles import tile_grid
from drn_cli.recipe.schema import Eval

CPU = torch.device("cpu")


def near_seams(height: int, width: int, side: int, distance: int) -> np.ndarray:
    """Return the mask, `(height, width)`, of pixels within a distance of a seam."""
    near = [np.zeros(length, bool) for length in (height, width)]
    for marked in near:
        tiles = tile_grid(len(marked), side)
        for one, following in itertools.pairwise(tiles):
            seam = (one.stop + following.start) // 2
            marked[max(0, seam - distance) : seam + distance] = True
    return near[0][:, None] | near[1][None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="a segmenter's checkpoint")
    parser.add_argument("--images", required=True, help="a folder of photographs")
    parser.add_argument("--images", type=int, default=6, help="how many of them, evenly spread")
    parser.add_argument("--enlarge", type=float, default=3.0)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--distance", type=int, default=64, help="from a seam, in pixels")
    args = parser.parse_args()

    found = find_images([args.images])
    images = []
    for item in found[:: max(1, len(found) // args.images)][: args.images]:
        image = Image.fromarray(read_image(Path(item.path)))
        size = (round(image.width * args.enlarge), round(image.height * args.enlarge))
        images.append(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
    whole = load_predictor(args.weights, CPU)
    expected = [whole(image).numpy() for image in images]
    print(f"{len(images)} images, the first of {images[0].shape[1]}x{images[0].shape[0]}")
    print("tile   of all   away from seams   (these are)")
    for side in args.sides:
        predictor = load_predictor(args.weights, CPU, view=Eval(tile=side))
        same = [
            predictor(image).numpy() == one for image, one in zip(images, expected, strict=True)
        ]
        away = [~near_seams(*one.shape, side, args.distance) for one in same]
        everywhere = np.mean([one.mean() for one in same])
        inside = np.mean([one[far].mean() for one, far in zip(same, away, strict=True)])
        share = np.mean([far.mean() for far in away])
        print(f"{side:<5}{100 * everywhere:8.2f} %{100 * inside:14.3f} %{100 * share:11.0f} %")


if __name__ == "__main__":
    main()
