"""Choice between colors and values, by the labels and the class file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.data.prepare.class_tables import ClassMapping, map_named_classes
from drn_cli.data.prepare.label_reading import (
    LabelScan,
    PixelValue,
    choose_encoding,
    scan_labels,
    write_class_file,
)
from drn_cli.errors import DrnError

BLACK, GREY, GREEN, WHITE = (0, 0, 0), (1, 1, 1), (0, 128, 0), (255, 255, 255)


def found(*shown: tuple, lossy: Path | None = None) -> LabelScan:
    return LabelScan({PixelValue(value, color): count for value, color, count in shown}, lossy)


def classes(text: str, tmp_path: Path) -> ClassMapping:
    (tmp_path / "c.csv").write_text(text)
    return map_named_classes(read_class_file(tmp_path / "c.csv"))


def test_scan_counts_values_and_colors(tmp_path: Path) -> None:
    values = np.repeat(np.arange(3, dtype=np.uint8), 4).reshape(3, 4)
    colors = np.array([BLACK, GREEN, WHITE], np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette(colors.tobytes())
    images = {
        "grey": Image.fromarray(values),
        "palette": palette,
        "colors": Image.fromarray(colors[values]),
        "two": Image.fromarray(values > 1),
    }
    paths = [tmp_path / f"{name}.png" for name in images]
    for path, image in zip(paths, images.values(), strict=True):
        image.save(path)
    seen: list[tuple[int, int]] = []
    everything = scan_labels(paths, lambda done, total: seen.append((done, total)))
    assert everything.pixels == {
        PixelValue(0, BLACK): 4 + 4 + 8,  # grey, palette and the two values of one bit
        PixelValue(1, GREY): 4,
        PixelValue(2, (2, 2, 2)): 4,
        PixelValue(1, GREEN): 4,
        PixelValue(2, WHITE): 4,
        PixelValue(1, WHITE): 4,
        PixelValue(None, BLACK): 4,
        PixelValue(None, GREEN): 4,
        PixelValue(None, WHITE): 4,
    }
    assert seen[-1] == (4, 4)
    assert everything.values() is None
    assert everything.colors()[:2] == [(BLACK, 20), (WHITE, 12)]
    assert scan_labels(paths[:2]).values() == [0, 1, 2]
    assert everything.lossy is None


RGB = "name,r,g,b\nvoid,0,0,0\ntree,0,128,0\nsnow,255,255,255\n"


@pytest.mark.parametrize(
    ("shown", "as_colors"),
    [
        ([(None, GREEN, 5), (None, WHITE, 5)], True),
        ([(0, BLACK, 5), (255, WHITE, 5), (7, GREEN, 5)], True),
        ([(2, BLACK, 5), (1, GREY, 5)], False),
        ([(1, GREEN, 5), (2, WHITE, 5), (0, BLACK, 1)], True),
        ([(7, GREEN, 5), (9, WHITE, 5), (8, (9, 9, 9), 1)], True),  # mostly known
        ([(1, GREEN, 1), (2, (9, 9, 9), 5)], False),
        (
            [(1, GREEN, 5), (2, WHITE, 5), (255, (224, 224, 192), 1)],
            False,
        ),  # equal by color and by value
    ],
)
def test_choice_between_colors_and_values(tmp_path: Path, shown: list, as_colors: bool) -> None:
    reading = choose_encoding(found(*shown), classes(RGB, tmp_path), [], unknown_as_void=True)
    assert (reading.colors is not None) is as_colors
    assert reading.class_set.names == ("tree", "snow")


def test_class_file_ids_choose_values(tmp_path: Path) -> None:
    with_ids = classes("name,r,g,b,id\nbackground,0,0,0,0\nobject,255,255,255,255\n", tmp_path)
    reading = choose_encoding(found((0, BLACK, 5), (255, WHITE, 5)), with_ids, [], False)
    assert reading.colors is None
    assert reading.values == {0: 0, 255: 1}


def test_unnamed_colors_are_listed_by_frequency(tmp_path: Path) -> None:
    many = found(*((None, (n, 0, 1), 100 - n) for n in range(45)), lossy=Path("a.jpg"))
    with pytest.raises(
        DrnError, match=r"without class names: 0,0,1 \(.*%\), 1,0,1 .* and 5 more; JPEG"
    ) as caught:
        choose_encoding(many, None, [], False)
    assert "--write-classes" in str(caught.value.hint)
    with pytest.raises(DrnError, match="colors without class names"):
        choose_encoding(many, classes("name\na\nb\n", tmp_path), [], False)


def test_class_ids_in_jpeg_are_refused() -> None:
    with pytest.raises(DrnError, match=r"a.jpg: class ids in a JPEG"):
        choose_encoding(found((0, BLACK, 5), (1, GREY, 5), lossy=Path("a.jpg")), None, [], False)


def test_ignoring_a_value_of_color_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match=r"--ignore 3: the labels contain colors"):
        choose_encoding(found((None, GREEN, 5)), classes(RGB, tmp_path), [3], False)


def test_class_file_template_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    assert write_class_file(path, found((None, GREEN, 5), (None, WHITE, 9))) == 2
    assert path.read_text() == "name,r,g,b\nclass 0,255,255,255\nclass 1,0,128,0\n"
    assert [row.color for row in read_class_file(path)] == [WHITE, GREEN]
    with pytest.raises(DrnError, match=r"new.csv: already exists"):
        write_class_file(path, found((None, GREEN, 5)))
    path.unlink()
    assert write_class_file(path, found((0, BLACK, 5), (1, GREY, 5), (255, WHITE, 9))) == 3
    assert path.read_text() == "name,id\nclass 0,0\nclass 1,1\nvoid,255\n"
    path.unlink()
    assert write_class_file(path, found((0, BLACK, 5), (255, WHITE, 9))) == 2
    assert path.read_text() == "name,id\nclass 0,0\nclass 255,255\n"
    path.unlink()
    with pytest.raises(DrnError, match="300 colors, more than"):
        write_class_file(path, found(*((None, (n % 256, n // 256, 0), 1) for n in range(300))))
    assert not path.exists()
