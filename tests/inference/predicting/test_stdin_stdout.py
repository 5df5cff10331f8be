"""An image from stdin, or to stdout."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.errors import DrnError


def test_png_through_stdin_and_stdout(piped, predict, photos):
    done = piped((photos / "a.png").read_bytes(), "-", "--out", "-")
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (64, 48))
    predict("photos/a.png")
    assert done.stdout == Path("predictions/colour/a.png").read_bytes()
    assert done.stderr == b""


def test_damaged_stdin_is_an_error(piped, photos):
    done = piped((photos / "a.png").read_bytes()[:700], "-", "--out", "-")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert re.match(r"error: .*broken image", line)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "the file is empty"), (b"no image", "not an image")]
)
def test_stdin_without_image_is_an_error(predict, photos, content, message):
    result = predict("-", "--out", "-", stdin=content)
    assert isinstance(result.exception, DrnError)
    assert message in str(result.exception)
    assert result.stdout_bytes == b""


@pytest.mark.parametrize("save", ["index,index", "overlay", "probabilities"])
def test_all_kinds_to_stdout(predict, photos, save):
    result = predict("-", "--out", "-", "--save", save, stdin=(photos / "b.jpg").read_bytes())
    assert result.exit_code == 0, result.output
    predict("photos/b.jpg", "--save", save)
    (path,) = Path("predictions", save.partition(",")[0]).iterdir()
    assert result.stdout_bytes == path.read_bytes()


def test_file_to_stdout_with_view(predict, photos):
    words = ("photos/b.jpg", "--scales", "0.5,1", "--flip")
    result = predict(*words, "--out", "-")
    predict(*words)
    assert result.stdout_bytes == Path("predictions/colour/b.png").read_bytes()
    plain = predict("photos/b.jpg", "--out", "-")
    assert result.stdout_bytes != plain.stdout_bytes


def test_stdin_to_folder(predict, photos):
    result = predict("-", "--save", "index", stdin=(photos / "a.png").read_bytes())
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1 image segmented")
    found = np.asarray(Image.open("predictions/index/stdin.png"))
    expected = predict("photos/a.png", "--save", "index", "--out", "-").stdout_bytes
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(expected))))


def test_folder_with_one_image_to_stdout(predict, photos):
    result = predict("photos", "--out", "-")
    assert isinstance(result.exception, DrnError)
    assert str(result.exception) == "photos: has 4 images, but --out - writes one"
    deep = predict("photos/deep", "--out", "-")
    assert deep.stdout_bytes == predict("photos/deep/d.png", "--out", "-").stdout_bytes
    assert deep.stdout_bytes.startswith(b"\x89PNG")


def test_stdout_needs_one_process(piped, photos):
    done = piped(b"", "photos/a.png", "--out", "-", "--gpus", "2")
    assert done.returncode == 2 or done.stdout.count(b"IEND") == 1
