"""Samples on a contact sheet: selection, and their data in JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.data.images import Pixels
from drn_cli.data.parallel import Progress
from drn_cli.data.showing.contact_sheet import Cell, LegendEntry, draw_sheet, thumbnail

CROPS = 3  # epochs of which crops are shown


@dataclass(frozen=True, slots=True)
class SampleSelection:
    """Samples and epochs to show."""

    count: int = 6  # samples, evenly spaced over the split
    seed: int = 0  # of the run whose crops are shown
    epoch: int = 0  # first epoch shown

    @property
    def epochs(self) -> range:
        return range(self.epoch, self.epoch + CROPS)

    def of(self, total: int) -> list[int]:
        """Return the numbers of the samples to show out of `total`, including first and last."""
        count = min(self.count, total)
        return [round(n * (total - 1) / max(1, count - 1)) for n in range(count)]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """The cells of one sample."""

    cells: list[Cell]
    facts: dict[str, Any]  # description of the sample for JSON


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """A contact sheet and its description."""

    pixels: Pixels  # uint8 (H, W, 3)
    images: int  # in the split
    classes: tuple[str, ...]  # all names; empty without labels
    settings: dict[str, Any] | None  # of the augmentation; None without crops
    samples: list[dict[str, Any]]  # facts of each sample shown


def image_row(
    number: int, path: Path, image: Pixels, facts: dict[str, Any], prefix: str = ""
) -> SampleRow:
    """Return the row of a sample with its image as the first cell."""
    height, width = image.shape[:2]
    caption = f"{prefix}{path.name} ({width}x{height})"
    facts = {"sample": number, "image": str(path), **facts, "width": width, "height": height}
    return SampleRow([Cell(thumbnail(image), caption)], facts)


def render_each(
    numbers: Sequence[int], show: Callable[[int], SampleRow], progress: Progress | None
) -> list[SampleRow]:
    """Render samples one by one, reporting progress."""
    shown = []
    for done, number in enumerate(numbers, start=1):
        shown.append(show(number))
        if progress is not None:
            progress(done, len(numbers))
    return shown


def make_sheet(
    where: str,
    total: int,
    shown: Sequence[SampleRow],
    *,
    classes: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    keys: Sequence[LegendEntry] = (),
) -> ContactSheet:
    """Draw a sheet of samples out of `total`, with a title."""
    title = f"{where}: {len(shown)} of {total} images"
    if settings is not None:
        title += f"; {in_words(settings)}"
    pixels = draw_sheet(title, [row.cells for row in shown], keys)
    return ContactSheet(pixels, total, classes, settings, [row.facts for row in shown])


def in_words(settings: dict[str, Any]) -> str:
    """Format settings as `crop 320, scale 1.5, rotate 5, flip on`."""
    return ", ".join(
        f"{name} {('off', 'on')[value] if isinstance(value, bool) else value}"
        for name, value in settings.items()
    )
