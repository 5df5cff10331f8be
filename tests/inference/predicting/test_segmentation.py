"""Segmentation with `drn predict`: image formats, damaged images, memory limits, symlinks."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.errors import DrnError
from drn_cli.inference import memory
from drn_cli.networks.catalog import architecture

KINDS = ("index", "colour", "overlay")


def test_probabilities_agree_with_classes(predict, photos):
    predict("photos/a.png", "--save", "index,probabilities")
    with np.load("predictions/probabilities/a.npz") as made:
        assert list(made["classes"]) == ["red", "green", "blue"]
        probabilities = made["probabilities"].astype(np.float32)
    index = np.asarray(Image.open("predictions/index/a.png"))
    assert probabilities.shape == (3, *index.shape)
    assert np.abs(probabilities.sum(0) - 1).max() < 2e-3
    chosen = np.take_along_axis(probabilities, index[None].astype(int), 0)[0]
    assert (chosen == probabilities.max(0)).all()  # rounded, others may be as likely
    assert len(np.unique(index)) > 1


def odd_images(folder: Path, drawn) -> dict[str, np.ndarray]:
    """Write images of unusual modes, and return their pixels as RGB."""
    folder.mkdir()
    plain = drawn(5, 40, 56)
    shown = {}

    def add(name: str, image: Image.Image, **options) -> None:
        image.save(folder / name, **options)
        with Image.open(folder / name) as written:
            shown[Path(name).stem] = np.asarray(written.convert("RGB"))

    add("one_pixel.png", Image.new("RGB", (1, 1), (200, 40, 40)))
    add("one_row.png", plain.crop((0, 0, 50, 1)))
    add("palette.png", plain.quantize(16))
    add("cmyk.jpg", plain.convert("CMYK"))
    add("grey.png", plain.convert("L"))
    add("transparent.png", plain.convert("RGBA"))
    add("tiff.tif", plain)
    grey = np.asarray(plain.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen_bits.png")
    shown["sixteen_bits"] = grey[..., None].repeat(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    plain.save(folder / "turned.png", exif=exif)
    shown["turned"] = np.rot90(np.asarray(plain), -1)
    return shown


def test_all_image_modes(predict, photos, files_in, drawn):
    shown = odd_images(photos / "odd", drawn)
    for name, pixels in shown.items():
        (photos / "plain").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(photos / "plain" / f"{name}.png")
    for folder in ("odd", "plain"):
        result = predict(photos / folder, "--out", folder)
        assert result.exit_code == 0, result.output
    odd, plain = files_in(Path("odd")), files_in(Path("plain"))
    assert odd == plain
    for name, pixels in shown.items():
        index = Image.open(io.BytesIO(odd[f"index/{name}.png"]))
        assert index.size == pixels.shape[1::-1]


def test_image_larger_than_memory_is_tiled(predict, photos, files_in, drawn, monkeypatch):
    drawn(6, 300, 400).save(photos / "large.png")
    words = ("photos/large.png", "--save", "index,probabilities")
    predict(*words, "--out", "whole")
    predict(*words, "--out", "tiles", "--tile", "192")
    pixels = 195 * 195  # down to a multiple of 8
    free = pixels * memory.bytes_per_pixel(architecture("drn_a_18")) / memory.SHARE
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    assert predict(*words, "--out", "short").exit_code == 0
    whole, tiles, short = (files_in(Path(name)) for name in ("whole", "tiles", "short"))
    assert short == tiles
    assert short["probabilities/large.npz"] != whole["probabilities/large.npz"]


def test_file_names_that_are_not_utf8(predict, photos, files_in):
    good, broken = (os.fsdecode(name) for name in (b"caf\xe9.png", b"th\xe9.png"))
    shutil.copy(photos / "a.png", photos / good)
    (photos / broken).write_bytes(b"broken")
    result = predict(f"photos/{good}", f"photos/{broken}")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert f"index/{Path(good).stem}.png" in files_in(Path("predictions"))


@pytest.mark.parametrize("link", [".lock", "index", "overlay/deep", "index/a.png"])
def test_symlinks_in_output_folder_are_refused(predict, photos, link):
    """A symlinked output file is replaced; other symlinks are refused."""
    place, target = Path("predictions", link), Path("elsewhere")
    place.parent.mkdir(parents=True)
    if link.endswith((".png", ".lock")):
        target.write_text("mine")
    else:
        target.mkdir()
        (target / ".a.png.01234567.tmp").write_text("mine")
    before = [path.read_bytes() for path in (*target.glob("*"), target) if path.is_file()]
    place.symlink_to(target.resolve())
    result = predict("photos")
    if link.endswith(".png"):
        assert result.exit_code == 0, result.output
        assert not place.is_symlink()
    else:
        assert isinstance(result.exception, DrnError)
        assert f"{place}: is a symbolic link" in str(result.exception)
    assert before == [path.read_bytes() for path in (*target.glob("*"), target) if path.is_file()]


def test_damaged_images_fail_and_others_are_predicted(predict, photos, caplog):
    whole = (photos / "a.png").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    spoiled = {
        "flipped.png": (flipped, "broken image: wrong checksum of its IDAT chunk at byte"),
        "street.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript (EPS) file, which is not"),
        "clip.jpg": (b"\0\0\0\x18ftypisom" + bytes(99), "MP4 or QuickTime video, which is not"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC image, which is not a supported"),
    }
    for name, (content, _) in spoiled.items():
        (photos / name).write_bytes(content)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(photos / "float.tif")
    pages = [Image.new("L", (60, 60), value) for value in (1, 200)]
    pages[0].save(photos / "pages.gif", save_all=True, append_images=pages[1:])
    result = predict("photos", "--json", "--save", "index")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    errors = {Path(one["image"]).name: one["error"] for one in found["failed"]}
    assert errors.keys() == {*spoiled, "float.tif"}
    for name, (_, problem) in spoiled.items():
        assert errors[name].startswith(f"photos/{name}: {problem}")
    assert "float pixels have no" in errors["float.tif"]
    assert len(found["results"]) == 5  # the first frame of the GIF too
    assert "photos/pages.gif: has 2 frames; only the first is read" in caplog.messages
