"""Samples on a contact sheet, whatever their kind: which are chosen, and what is told of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drn_cli.data.images import Pixels
from drn_cli.data.parallel import Progress
from drn_cli.data.showing.contact_sheet import Cell, LegendEntry, draw_sheet

CROPS = 3  # epochs that a training sample is shown in


@dataclass(frozen=True, slots=True)
class SampleSelection:
    """Which samples are shown, and in which epochs.

    Attributes:
        count: How many, evenly spaced over the split.
        seed: Of the run whose crops are shown.
        epoch: The first of those that are shown.
    """

    count: int = 6
    seed: int = 0
    epoch: int = 0

    @property
    def epochs(self) -> range:
        return range(self.epoch, self.epoch + CROPS)

    def of(self, total: int) -> list[int]:
        """Choose among `total` samples, the first and the last among them."""
        count = min(self.count, total)
        return [round(n * (total - 1) / max(1, count - 1)) for n in range(count)]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A sample on the sheet.

    Attributes:
        tiles: Its images.
        facts: The same in words and numbers.
    """

    tiles: list[Cell]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """A contact sheet and what is on it.

    Attributes:
        pixels: uint8 `(H, W, 3)`.
        images: How many the split has.
        classes: Names of all classes; none if there are no labels.
        settings: What the crops are drawn with; none if there are no crops.
        samples: Facts of each sample shown.
    """

    pixels: Pixels
    images: int
    classes: tuple[str, ...]
    settings: dict[str, Any] | None
    samples: list[dict[str, Any]]


def render_each(
    numbers: Sequence[int], show: Callable[[int], SampleRow], progress: Progress | None
) -> list[SampleRow]:
    """Show samples one by one, and tell how many are done."""
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
    """Draw the sheet of some samples of `total`, under a title that says what they are."""
    title = f"{where}: {len(shown)} of {total} images"
    if settings is not None:
        title += f"; {in_words(settings)}"
    pixels = draw_sheet(title, [one.tiles for one in shown], keys)
    return ContactSheet(pixels, total, classes, settings, [one.facts for one in shown])


def in_words(settings: dict[str, Any]) -> str:
    """Say settings as a recipe does: `crop 320, scale 1.5, rotate 5, flip on`."""
    said = {name: ("off", "on")[v] if isinstance(v, bool) else v for name, v in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in said.items())
