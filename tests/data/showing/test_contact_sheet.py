import numpy as np
import pytest

from drn_cli.data.showing.contact_sheet import (
    ACROSS,
    NARROWEST,
    PAPER,
    SWATCH,
    TALLEST,
    WIDEST,
    Cell,
    LegendEntry,
    draw_sheet,
    ellipsize,
    label_thumbnail,
    thumbnail,
)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def box(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a color, which has to fill this box."""
    rows, columns = np.nonzero((sheet == colour).all(axis=-1))
    assert len(rows), f"{colour} is not on the sheet"
    top, left = rows.min(), columns.min()
    height, width = rows.max() - top + 1, columns.max() - left + 1
    assert len(rows) == height * width
    return top, left, height, width


def ink(part: np.ndarray) -> int:
    """Count pixels that are darker than the paper."""
    return int((part < 128).all(axis=-1).sum())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 2048), (220, 440)),
        ((360, 480), (220, 293)),
        ((100, 1000), (44, 440)),
        ((3000, 100), (220, 7)),
        ((48, 64), (220, 293)),
        ((1, 1), (220, 220)),
        ((1, 5000), (1, 440)),
    ],
)
def test_thumbnails_have_bounded_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert thumbnail(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3)
    assert label_thumbnail(np.zeros(size, np.uint8)).shape == expected
    assert expected[0] <= TALLEST and expected[1] <= WIDEST


def test_thumbnails_average_images_but_not_labels() -> None:
    stripes = np.zeros((880, 880), np.uint8)
    stripes[:, ::2] = 200
    assert (thumbnail(np.stack([stripes] * 3, axis=-1)) == 100).all()
    assert set(np.unique(label_thumbnail(stripes))) <= {0, 200}
    tiny = np.array([[0, 18], [255, 7]], np.uint8)
    enlarged = label_thumbnail(tiny)
    assert (enlarged == tiny.repeat(110, 0).repeat(110, 1)).all()


def test_layout_of_rows_columns_and_legend() -> None:
    rows = [
        [Cell(plain(100, 300, (250, 0, n)), "a"), Cell(plain(120, 50, (0, 250, n)), "b")] * 2
        for n in (10, 20)
    ]
    for row in rows:  # four tiles each, so every sample has a row of its own
        row[2:] = [Cell(plain(30, 30, PAPER), "")] * 2
    key = LegendEntry("one", plain(SWATCH, SWATCH, (0, 0, 250)))
    sheet = draw_sheet("title", rows, [key])
    first, second = (box(sheet, (250, 0, n)) for n in (10, 20))
    beside, below = (box(sheet, (0, 250, n)) for n in (10, 20))
    assert first[2:] == second[2:] == (100, 300)
    assert first[1] == second[1]
    assert beside[0] == first[0] and below[0] == second[0]
    assert beside[1] == below[1] > first[1] + 300
    assert second[0] > beside[0] + 120
    swatch = box(sheet, (0, 0, 250))
    assert swatch[2:] == (SWATCH, SWATCH)
    assert swatch[0] > below[0] + 120
    assert ink(sheet[: first[0]]) > 20  # the title
    assert ink(sheet[beside[0] + 120 : second[0]]) > 10  # captions
    assert ink(sheet[swatch[0] :, swatch[1] + SWATCH :]) > 10  # name of the key
    assert (sheet[0] == PAPER).all() and (sheet[:, -1] == PAPER).all()


def test_samples_with_few_cells_share_a_row() -> None:
    colours = [(250, 0, 10 * n) for n in range(8)]
    sheet = draw_sheet("", [[Cell(plain(20, 20, colour), "")] for colour in colours], [])
    boxes = [box(sheet, colour) for colour in colours]
    assert len({top for top, *_ in boxes[:ACROSS]}) == 1
    assert boxes[ACROSS][0] == boxes[ACROSS + 1][0] > boxes[0][0]
    lefts = [left for _, left, *_ in boxes]
    assert lefts[:2] == lefts[ACROSS:]
    assert lefts[1] - lefts[0] > NARROWEST


def test_long_captions_stay_in_their_column() -> None:
    tiles = [
        Cell(plain(20, 20, (250, 0, 0)), "long " * 100),
        Cell(plain(20, 20, (0, 250, 0)), ""),
    ]
    sheet = draw_sheet("very " * 1000, [[*tiles, *tiles[1:] * 2]], [])
    top, left, height, _ = box(sheet, (250, 0, 0))
    captions = sheet[top + height :]
    assert ink(captions[:, left : left + NARROWEST]) > 100
    assert ink(captions[:, left + NARROWEST + 2 :]) == 0


def test_legend_breaks_into_lines() -> None:
    tile = Cell(plain(20, 20, (250, 0, 0)), "")
    short, long = (
        draw_sheet(
            "", [[tile] * 4], [LegendEntry("a name", plain(SWATCH, SWATCH, (0, 0, 250)))] * count
        )
        for count in (2, 60)
    )
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 60
    count = (long == (0, 0, 250)).all(axis=-1).sum()
    assert count == 60 * SWATCH**2


def test_ellipsis_replaces_the_middle_of_a_text() -> None:
    assert ellipsize("short", 5, len) == "short"
    assert ellipsize("aachen_000019.png", 9, len) == "aach….png"
    assert ellipsize("aachen_000019.png", 1, len) == "…"
    assert ellipsize("aachen", 0, len) == "…"
