import io
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drn_cli.data.classes import camvid
from drn_cli.data.images import overlay, read_image, read_label
from drn_cli.errors import DrnError
from drn_cli.inference.outputs import (
    DEFAULT_KINDS,
    KINDS,
    encode,
    is_written,
    output_directory,
    output_path,
    write_prediction,
)

SIZE = (6, 7)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
CLASSES = RANDOM.integers(0, 11, SIZE).astype(np.uint8)
PROBABILITIES = torch.from_numpy(RANDOM.random((11, *SIZE), np.float32))
HALF = ".a.png.1a2b3c4d.tmp"  # what a killed process leaves


def content(kind: str) -> bytes:
    return encode(kind, IMAGE, CLASSES, PROBABILITIES, camvid())


def write(out: Path, name: str = "deep/a", kinds: tuple[str, ...] = KINDS) -> dict[str, str]:
    return write_prediction(out, name, kinds, IMAGE, CLASSES, PROBABILITIES, camvid())


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("kind", "mode"), [("index", "L"), ("colour", "P"), ("overlay", "RGB")])
def test_png_modes(kind: str, mode: str) -> None:
    with Image.open(io.BytesIO(content(kind))) as made:
        assert (made.format, made.mode, made.size) == ("PNG", mode, SIZE[::-1])
        pixels = np.asarray(made)
        shown = np.asarray(made.convert("RGB"))
    if kind == "overlay":
        assert np.array_equal(pixels, overlay(IMAGE, CLASSES, camvid()))
    else:
        assert np.array_equal(pixels, CLASSES)
    if kind == "colour":
        assert np.array_equal(shown, np.array(camvid().colours)[CLASSES])


def test_npz_of_probabilities() -> None:
    with np.load(io.BytesIO(content("probabilities"))) as made:  # reads no pickles
        assert set(made.files) == {"probabilities", "classes"}
        assert made["probabilities"].dtype == np.float16
        assert np.array_equal(made["probabilities"], PROBABILITIES.half().numpy())
        assert tuple(made["classes"]) == camvid().names


def test_output_paths(tmp_path: Path) -> None:
    files = write(tmp_path / "out")
    endings = {"index": "png", "colour": "png", "overlay": "png", "probabilities": "npz"}
    assert files == {kind: f"{tmp_path}/out/{kind}/deep/a.{e}" for kind, e in endings.items()}
    assert sorted(files.values()) == [f"{tmp_path}/{name}" for name in files_below(tmp_path)]
    for kind, path in files.items():
        assert Path(path).read_bytes() == content(kind)
        assert output_path(tmp_path / "out", kind, "deep/a") == Path(path)
    assert np.array_equal(read_label(Path(files["colour"])), CLASSES)
    assert np.array_equal(read_image(Path(files["overlay"])), overlay(IMAGE, CLASSES, camvid()))


def test_only_given_kinds_are_written(tmp_path: Path) -> None:
    assert list(write(tmp_path, "a", ("overlay", "index"))) == ["overlay", "index"]
    assert files_below(tmp_path) == ["index/a.png", "overlay/a.png"]
    assert set(KINDS) - set(DEFAULT_KINDS) == {"probabilities"}  # these are large


def test_dots_in_output_names(tmp_path: Path) -> None:
    write(tmp_path, "v1.2/frame.0001", ("index",))
    assert files_below(tmp_path) == ["index/v1.2/frame.0001.png"]


def test_existing_prediction_is_replaced(tmp_path: Path) -> None:
    for number in (1, 2):
        classes = np.full(SIZE, number, np.uint8)
        files = write_prediction(tmp_path, "a", ("index",), IMAGE, classes, None, camvid())
    assert (read_label(Path(files["index"])) == 2).all()
    assert files_below(tmp_path) == ["index/a.png"]


def test_unwritable_output_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "index").touch()
    with pytest.raises(DrnError, match=r"index/a\.png: cannot be written"):
        write(tmp_path, "a", ("index",))


def test_is_written(tmp_path: Path) -> None:
    assert not is_written(tmp_path, "deep/a", ("index",))
    write(tmp_path, "deep/a", ("index", "probabilities"))
    assert is_written(tmp_path, "deep/a", ("index",))
    assert is_written(tmp_path, "deep/a", ("index", "probabilities"))
    assert not is_written(tmp_path, "deep/a", ("index", "overlay"))
    assert not is_written(tmp_path, "a", ("index",))
    output_path(tmp_path, "probabilities", "deep/a").unlink()
    assert not is_written(tmp_path, "deep/a", ("index", "probabilities"))
    assert is_written(tmp_path, "deep/a", ("index",))


def test_empty_file_is_incomplete(tmp_path: Path) -> None:
    files = write(tmp_path, "a", ("index", "colour"))
    Path(files["colour"]).write_bytes(b"")
    assert not is_written(tmp_path, "a", ("index", "colour"))


def halves(out: Path) -> list[Path]:
    paths = [out / "index" / HALF, out / "probabilities" / "deep" / ".b.npz.00ff00ff.tmp"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    return paths


def test_incomplete_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    write(tmp_path)
    ours = files_below(tmp_path)
    kept = [
        "index/.hidden.png",
        "index/notes.tmp",
        "index/.a.png.tmp",
        "index/.a.png.1a2b3c4d.tmp.png",
        "index/a.png.1a2b3c4d.tmp",
        f"else/{HALF}",
        HALF,
    ]
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    halves(tmp_path)
    with output_directory(tmp_path):
        assert set(files_below(tmp_path)) - {".lock"} == {*ours, *kept}


def test_output_folder_is_created(tmp_path: Path) -> None:
    with output_directory(tmp_path / "deep" / "out"):
        assert (tmp_path / "deep" / "out").is_dir()


@pytest.mark.parametrize("out", ["a.txt", "a.txt/deep"])
def test_output_folder_that_cannot_be_created_is_an_error(tmp_path: Path, out: str) -> None:
    (tmp_path / "a.txt").touch()
    with (
        pytest.raises(DrnError, match=r"a\.txt.*: cannot be written"),
        output_directory(tmp_path / out),
    ):
        pass


WRITER = """
import sys
from pathlib import Path
from drn_cli.inference.outputs import output_directory
with output_directory(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_nothing_is_removed_while_another_process_writes(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        left = halves(tmp_path)
        with output_directory(tmp_path):
            assert all(path.exists() for path in left)
        process.kill()
    with output_directory(tmp_path):
        assert not any(path.exists() for path in left)


def test_nothing_is_removed_while_a_later_process_writes(tmp_path: Path) -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(output_directory(tmp_path))
        second.enter_context(output_directory(tmp_path))
        first.close()
        left = halves(tmp_path)
        with output_directory(tmp_path):
            assert all(path.exists() for path in left)


def test_lock_is_released_after_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), output_directory(tmp_path):
        raise ZeroDivisionError
    left = halves(tmp_path)
    with output_directory(tmp_path):
        assert not any(path.exists() for path in left)
