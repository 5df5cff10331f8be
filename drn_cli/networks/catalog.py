"""The architectures of the paper, as data."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from drn_cli.errors import DrnError

Task = Literal["classification", "segmentation"]
Family = Literal["A", "B", "C", "D"]
Kind = Literal["original", "retrained"]

MAX_WIDTH = 4.0
# Keywords for published weights, and the kind of file that each selects.
KEYWORDS: dict[str, Kind] = {"imagenet": "original", "imagenet-retrained": "retrained"}


@dataclass(frozen=True, slots=True)
class PublishedErrors:
    """ImageNet validation errors in percent, as published."""

    top1: float
    top5: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """An architecture of the paper, or one with other channels."""

    name: str  # name as in the original code, `drn_d_22`
    # A: a dilated ResNet. B: no max-pool, eight levels. C: B without the last shortcuts
    # ("degridding"). D: C with plain convolutions at both ends.
    family: Family
    bottleneck: bool  # whether the residual blocks of the middle levels are bottlenecks
    # Number of blocks (or plain convolutions) per level: levels 1 to 4 in family A, as in ResNet,
    # and 1 to 8 in the others.
    blocks: tuple[int, ...]
    one_crop: PublishedErrors | None = None  # published errors for one 224x224 centre crop
    ten_crop: PublishedErrors | None = None  # published errors over ten crops
    # Published mIoU of the segmenter on the Cityscapes validation set, in percent
    miou: float | None = None
    width: float = 1.0  # channel multiplier; widths other than 1.0 are not in the paper

    def channels(self, stock: int) -> int:
        """Return the paper's number of channels times `width`, rounded to a multiple of 8.

        At least 8; a tie goes to an even multiple of 8 (20 to 16, 28 to 32).
        """
        return max(8, 8 * round(stock * self.width / 8))

    @property
    def out_channels(self) -> int:
        """Channels of the last feature map."""
        return self.channels(512) * (4 if self.family == "A" and self.bottleneck else 1)

    @property
    def label(self) -> str:
        """The name, with any other width than 1.0: `drn_d_22 (width 0.5)`."""
        return label(self.name, self.width)


# From the paper and the README of its code.
_MIOU = {"a_50": 67.3, "c_26": 68.0, "c_42": 70.9, "d_22": 68.0, "d_38": 71.4, "d_105": 75.6}


def _architectures() -> dict[str, Architecture]:
    errors = PublishedErrors
    # fmt: off
    rows = [
        ("a_18",  "A", False, (2, 2, 2, 2), errors(28.00, 9.50), errors(25.75, 8.25)),
        ("a_34",  "A", False, (3, 4, 6, 3), errors(24.81, 7.54), errors(22.64, 6.34)),
        ("a_50",  "A", True,  (3, 4, 6, 3), errors(22.94, 6.57), errors(21.34, 5.74)),
        ("b_26",  "B", False, (1, 1, 2, 2, 2, 2, 1, 1), errors(25.19, 7.91), errors(23.33, 6.69)),
        ("c_26",  "C", False, (1, 1, 2, 2, 2, 2, 1, 1), errors(24.86, 7.55), errors(22.93, 6.39)),
        ("c_42",  "C", False, (1, 1, 3, 4, 6, 3, 1, 1), errors(22.94, 6.57), errors(21.20, 5.60)),
        ("c_58",  "C", True,  (1, 1, 3, 4, 6, 3, 1, 1), errors(21.7, 6.0), None),
        ("d_22",  "D", False, (1, 1, 2, 2, 2, 2, 1, 1), errors(25.8, 8.2), None),
        ("d_24",  "D", False, (1, 1, 2, 2, 2, 2, 2, 2), None, None),
        ("d_38",  "D", False, (1, 1, 3, 4, 6, 3, 1, 1), errors(23.8, 6.9), None),
        ("d_40",  "D", False, (1, 1, 3, 4, 6, 3, 2, 2), None, None),
        ("d_54",  "D", True,  (1, 1, 3, 4, 6, 3, 1, 1), errors(21.2, 5.9), None),
        ("d_56",  "D", True,  (1, 1, 3, 4, 6, 3, 2, 2), None, None),
        ("d_105", "D", True,  (1, 1, 3, 4, 23, 3, 1, 1), errors(20.6, 5.5), None),
        ("d_107", "D", True,  (1, 1, 3, 4, 23, 3, 2, 2), None, None),
    ]

    # fmt: on
    return {
        f"drn_{row[0]}": Architecture(
            name=f"drn_{row[0]}",
            family=row[1],  # type: ignore[arg-type]
            bottleneck=row[2],
            blocks=row[3],
            one_crop=row[4],
            ten_crop=row[5],
            miou=_MIOU.get(row[0]),
        )
        for row in rows
    }


ARCHITECTURES = _architectures()


def label(name: str, width: float) -> str:
    """Return the name of an architecture, with any other width than 1.0."""
    return name if width == 1 else f"{name} (width {width!r})"


def list_models() -> list[str]:
    """Return the names of all architectures."""
    return list(ARCHITECTURES)


def check_width(width: float, weights: str | None) -> None:
    """Check that a network with published weights has width 1.0.

    Raises:
        DrnError: `weights` is one of `KEYWORDS`, and the width is not 1.0.
    """
    if weights in KEYWORDS and width != 1:
        raise DrnError(
            f"the published {weights} weights need width 1.0, not {width!r}",
            "use width 1.0, or train from scratch with weights null (None in Python)",
        )


def architecture(name: str, width: float = 1.0) -> Architecture:
    """Look up an architecture, and scale its channels.

    Args:
        name: `drn-d-22`, `DRN_D_22` and `drn_d_22` are the same.
        width: Channel multiplier, above 0 and at most `MAX_WIDTH`. With any other width than 1.0,
            the published scores are None.

    Raises:
        DrnError: Unknown name, or a width out of range.
    """
    if not 0 < width <= MAX_WIDTH:
        raise DrnError(
            f"width {width!r}: out of range", f"use a width above 0, at most {MAX_WIDTH:g}"
        )
    key = name.lower().replace("-", "_")
    if key in ARCHITECTURES:
        stock = ARCHITECTURES[key]
        if width == 1:
            return stock
        return replace(stock, width=float(width), one_crop=None, ten_crop=None, miou=None)
    close = get_close_matches(key, ARCHITECTURES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"one of: {', '.join(ARCHITECTURES)}"
    raise DrnError(f"unknown architecture {name!r}", hint)
