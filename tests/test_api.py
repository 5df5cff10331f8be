"""The Python API: `Predictor` and its results."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_networks import CLASS_SET, CROP, RUNTIMES, Exports, expected, noise
from PIL import Image

import drn_cli
from drn_cli.data.images import overlay
from drn_cli.data.resized_crop import center_crop, ten_crops
from drn_cli.inference.loading import load_predictor
from drn_cli.recipe.schema import Eval

PIXELS = noise(48, 64)
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.fixture(scope="module")
def segmenter(exports: Exports) -> drn_cli.Predictor:
    return drn_cli.Predictor(exports.run(), device="cpu")


@pytest.fixture(scope="module")
def classifier(exports: Exports) -> drn_cli.Predictor:
    return drn_cli.Predictor(exports.run("classification"), device="cpu")


def segmented(predictor: drn_cli.Predictor, image: Any = PIXELS) -> drn_cli.Prediction:
    found = predictor(image)
    assert isinstance(found, drn_cli.Prediction)
    return found


def classified(predictor: drn_cli.Predictor, image: Any = PIXELS) -> drn_cli.Classification:
    found = predictor(image)
    assert isinstance(found, drn_cli.Classification)
    return found


def test_segmentation_of_an_image(segmenter: drn_cli.Predictor) -> None:
    assert (segmenter.arch, segmenter.task) == ("drn_a_18", "segmentation")
    assert segmenter.classes == CLASS_SET.names
    found = segmented(segmenter)
    logits, _ = expected("segmentation", PIXELS[None])
    assert (found.index.dtype, found.index.shape) == (np.uint8, (48, 64))
    assert (found.index == logits[0].argmax(0)).mean() > 0.999
    shares = torch.from_numpy(logits[0]).softmax(0).numpy()
    assert (found.probabilities.dtype, found.probabilities.shape) == (np.float32, (3, 48, 64))
    assert np.abs(found.probabilities - shares).max() < 1e-4
    assert found.probabilities is found.probabilities  # computed once
    assert np.array_equal(found.image, PIXELS)


def test_colours_and_overlay_show_the_classes(segmenter: drn_cli.Predictor) -> None:
    found = segmented(segmenter)
    assert found.colours.mode == "P"
    assert np.array_equal(np.asarray(found.colours), found.index)
    painted = np.array(CLASS_SET.colours, np.uint8)[found.index]
    assert np.array_equal(np.asarray(found.colours.convert("RGB")), painted)
    assert np.array_equal(np.asarray(found.overlay), overlay(PIXELS, found.index, CLASS_SET))
    assert np.abs(np.asarray(found.overlay) - (PIXELS / 2 + painted / 2)).max() <= 1


def test_shares_of_occurring_classes(segmenter: drn_cli.Predictor) -> None:
    found = segmented(segmenter)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert len(found.shares) == 3
    for name, share in found.shares.items():
        assert share == pytest.approx((found.index == CLASS_SET.names.index(name)).mean())
    assert len(segmented(segmenter, noise(1, 1)).shares) == 1


def test_types_of_images(segmenter: drn_cli.Predictor, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    right = segmented(segmenter).index
    with Image.open(file) as opened:
        for image in (file, str(file), opened, Image.fromarray(PIXELS), PIXELS[:, :, :]):
            assert np.array_equal(segmented(segmenter, image).index, right)
    mirrored = segmented(segmenter, PIXELS[:, ::-1]).index  # with a negative stride
    assert np.array_equal(mirrored, segmented(segmenter, PIXELS[:, ::-1].copy()).index)
    assert not np.array_equal(mirrored, right)


def files(folder: Path) -> dict[str, Path]:
    """Files for which Pillow's pixels differ from ours: rotated, in 16 bits, and so on."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    deep = (PIXELS[..., 0].astype(np.uint16) << 8) + 7
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "turned.jpg": (Image.fromarray(PIXELS), {"exif": exif, "quality": 95}),
        "turned.png": (Image.fromarray(PIXELS), {"exif": exif}),
        "deep.png": (Image.fromarray(deep), {}),
        "deep.tif": (Image.fromarray(deep), {}),
        "palette.png": (Image.fromarray(PIXELS).quantize(16), {"transparency": 1}),
        "grey.webp": (Image.fromarray(PIXELS[..., 0]), {"lossless": True}),
        "print.jpg": (Image.fromarray(PIXELS).convert("CMYK"), {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in made}


def test_file_content_and_pillow_image_give_the_same_result(
    segmenter: drn_cli.Predictor, tmp_path: Path
) -> None:
    for name, path in files(tmp_path).items():
        right = segmented(segmenter, path)
        with path.open("rb") as file, Image.open(path) as unread, Image.open(path) as read:
            read.load()
            before = (read.size, read.mode, dict(read.info))
            images = [str(path), path.read_bytes(), file, io.BytesIO(path.read_bytes())]
            listed = segmenter([*images, unread, read])
            assert (read.size, read.mode, dict(read.info)) == before
        assert len(listed) == 6
        for found in listed:
            assert np.array_equal(found.image, right.image), name
            assert np.array_equal(found.index, right.index), name
    assert segmenter(()) == []


def test_refuses_pillow_images_of_damaged_files(
    segmenter: drn_cli.Predictor, tmp_path: Path
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[-30] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(drn_cli.DrnError, match=r"a\.png: broken image: wrong checksum"):
        segmenter(tmp_path / "a.png")
    message = r"a\.png: broken image: wrong checksum"
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(drn_cli.DrnError, match=message):
        segmenter(opened)


@pytest.mark.parametrize(
    "image", [None, 3, PIXELS.tolist(), torch.zeros(3), io.StringIO("a"), {"a": 1}, [PIXELS, None]]
)
def test_other_types_are_a_type_error(segmenter: drn_cli.Predictor, image: Any) -> None:
    with pytest.raises(TypeError, match=r"a path, bytes, a file .*, a PIL image, or a uint8 array"):
        segmenter(image)


def test_grey_and_palette_images_become_rgb(segmenter: drn_cli.Predictor) -> None:
    grey = Image.fromarray(PIXELS).convert("L")
    palette = Image.fromarray(PIXELS).quantize(16)
    clear = Image.fromarray(PIXELS).convert("RGBA")
    for image in (grey, palette, clear):
        found = segmented(segmenter, image)
        assert np.array_equal(found.image, np.asarray(image.convert("RGB")))
        assert np.array_equal(found.index, segmented(segmenter, found.image).index)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS.astype(np.float32),
        PIXELS[:, :, 0],
        PIXELS[None],
        PIXELS.transpose(2, 0, 1),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_refuses_other_arrays(segmenter: drn_cli.Predictor, array: Any) -> None:
    with pytest.raises(drn_cli.DrnError, match=r"RGB pixels must be uint8 \(H, W, 3\)") as raised:
        segmenter(array)
    assert f"{array.dtype} {array.shape}" in str(raised.value)


def test_unreadable_images_are_an_error_in_one_line(
    segmenter: drn_cli.Predictor, tmp_path: Path
) -> None:
    with pytest.raises(drn_cli.DrnError, match="image: has no pixels: 0x4"):
        segmenter(Image.new("RGB", (0, 4)))
    with pytest.raises(drn_cli.DrnError, match=r"^image 2 of 3: has no pixels: 0x4"):
        segmenter([PIXELS, Image.new("RGB", (0, 4)), PIXELS])
    with pytest.raises(drn_cli.DrnError, match=r"^image 1 of 1: array of uint8"):
        segmenter([PIXELS[0]])
    (tmp_path / "broken.png").write_bytes(b"noise")
    for name in ("none.png", "broken.png"):
        with pytest.raises(drn_cli.DrnError, match=rf"{name}: "):
            segmenter(tmp_path / name)
    with pytest.raises(drn_cli.DrnError, match="no such run directory or checkpoint"):
        drn_cli.Predictor(tmp_path / "none.onnx")


@pytest.mark.parametrize("format_", [*RUNTIMES, "fyu"])
def test_exported_networks_give_the_same_result(
    exports: Exports, segmenter: drn_cli.Predictor, format_: str
) -> None:
    exported = drn_cli.Predictor(str(exports(format=format_)), device="cpu")
    assert exported.classes == segmenter.classes
    found, right = segmented(exported), segmented(segmenter)
    assert (found.index == right.index).mean() > 0.999
    assert np.abs(found.probabilities - right.probabilities).max() < 1e-4


def test_argmax_exports_have_no_probabilities(
    exports: Exports, segmenter: drn_cli.Predictor
) -> None:
    file = exports(format="onnx", argmax=True, normalize=True)
    found = segmented(drn_cli.Predictor(file, device="cpu"))
    assert (found.index == segmented(segmenter).index).mean() > 0.999
    assert set(found.shares) == set(CLASS_SET.names)
    assert found.overlay.size == (64, 48)
    with pytest.raises(drn_cli.DrnError, match=r"class ids only .*without --argmax"):
        _ = found.probabilities
    with pytest.raises(drn_cli.DrnError, match="outputs class ids only"):
        drn_cli.Predictor(file, device="cpu", flip=True)


def test_views(exports: Exports) -> None:
    checkpoint = exports.run() / "checkpoints" / "best.safetensors"
    options: dict[str, Any] = {"scales": (0.5, 1.5), "flip": True, "tile": 64}
    found = segmented(drn_cli.Predictor(checkpoint, device="cpu", **options), noise(48, 80))
    right = load_predictor(checkpoint, CPU, view=Eval(**options)).with_probabilities(noise(48, 80))
    assert np.array_equal(found.index, right[0].numpy())
    assert np.array_equal(found.probabilities, right[1].numpy())
    assert drn_cli.MULTI_SCALE == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize("ten", [False, True])
def test_classification_of_an_image(exports: Exports, ten: bool) -> None:
    run = exports.run("classification")
    predictor = drn_cli.Predictor(run, device="cpu", ten_crop=ten)
    assert (predictor.task, predictor.classes) == ("classification", CLASS_SET.names)
    found = classified(predictor)
    crops = ten_crops(PIXELS, CROP, 48) if ten else center_crop(PIXELS, CROP, 48)[None]
    logits = torch.from_numpy(expected("classification", crops)[0]).double()
    shares = logits.softmax(1).mean(0).numpy()
    assert found.names == CLASS_SET.names
    assert np.abs(found.probabilities - shares).max() < 1e-5
    order = np.argsort(-shares)
    assert [name for name, _ in found.top()] == [CLASS_SET.names[k] for k in order]
    assert [share for _, share in found.top(2)] == pytest.approx(shares[order[:2]], abs=1e-5)


def test_ties_are_ordered_by_class() -> None:
    found = drn_cli.Classification(
        names=("a", "b", "c", "d"), probabilities=np.array([0.1, 0.4, 0.1, 0.4])
    )
    assert found.top(3) == [("b", 0.4), ("d", 0.4), ("a", 0.1)]


def test_an_exported_classifier_uses_the_crops_of_its_run(
    exports: Exports, classifier: drn_cli.Predictor
) -> None:
    exported = drn_cli.Predictor(exports("classification", format="onnx"), device="cpu")
    assert exported.classes == CLASS_SET.names
    found, right = classified(exported), classified(classifier)
    assert np.abs(found.probabilities - right.probabilities).max() < 1e-5


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("segmentation", {"ten_crop": True}, "ten_crop: only for classification"),
        ("classification", {"flip": False}, "scales, flip, tile: only for segmentation"),
        ("classification", {"scales": (1,)}, "scales, flip, tile: only for segmentation"),
        ("segmentation", {"mean": (0, 0, 0)}, "^mean and std: only one of them is given"),
        ("segmentation", {"mean": (0, 0, 0), "std": (1, 1, 255)}, "^std 1,1,255: should be three"),
        ("classification", {"stats": "nowhere"}, "nowhere: no such data folder"),
        ("classification", {"precision": "bf16"}, r"the precision of .*net\.onnx is fixed"),
    ],
)
def test_refuses_options_of_the_other_task(
    exports: Exports, task: Any, options: dict[str, Any], message: str
) -> None:
    source = exports(task, format="onnx") if "precision" in options else exports.run(task)
    with pytest.raises(drn_cli.DrnError, match=message):
        drn_cli.Predictor(source, device="cpu", **options)


def test_mean_and_std_options(exports: Exports, segmenter: drn_cli.Predictor) -> None:
    source = exports.run("segmentation")
    stated = drn_cli.Predictor(source, device="cpu", mean=(0.9, 0.9, 0.9), std=(0.1, 0.1, 0.1))
    assert not np.array_equal(stated(PIXELS).probabilities, segmenter(PIXELS).probabilities)
    with pytest.raises(drn_cli.DrnError, match=r"array of uint8 \(0, 5, 3\)"):
        stated(np.zeros((0, 5, 3), np.uint8))


def test_public_names_without_importing_torch() -> None:
    code = (
        "import sys, drn_cli; print(sorted(set(drn_cli.__all__) - set(dir(drn_cli))),"
        " 'torch' in sys.modules, drn_cli.__version__); drn_cli.Predictor;"
        " print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"[] False {drn_cli.__version__}\nTrue\n"


@pytest.mark.parametrize("name", drn_cli.__all__)
def test_public_names_can_be_imported(name: str) -> None:
    assert getattr(drn_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = drn_cli.nothing
