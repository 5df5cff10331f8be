"""`drn predict --cityscapes-submission`: content of the zip file, and when none is written."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.data.folders import CITYSCAPES
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights

SIZE = (2048, 1024)
FRAMES = ("berlin_000001_000019", "bonn_000000_000019")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained narrow segmenter of the 19 classes."""
    torch.manual_seed(0)
    model = create_model("drn_a_18", "segmentation", 19, width=0.0625)
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    save_weights(path, model, to_metadata(model, CITYSCAPES, cityscapes()))
    return path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Two images of colored blocks in the layout of Cityscapes."""
    for number, frame in enumerate(FRAMES):
        city = tmp_path / "test" / frame.partition("_")[0]
        city.mkdir(parents=True)
        random = np.random.default_rng(number)
        blocks = random.integers(0, 256, (4, 8, 3)).astype(np.uint8)
        image = Image.fromarray(blocks.repeat(256, 0).repeat(256, 1))
        image.save(city / f"{frame}_leftImg8bit.png", compress_level=1)
    return tmp_path / "test"


def label_ids(index: Path) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for label_id, train_id in enumerate(cityscapes_train_ids()):
        if train_id != 255:
            table[train_id] = label_id
    return table[np.asarray(Image.open(index))]


def test_zip_holds_label_ids_of_each_image(drn_here, network, street, tmp_path) -> None:
    seen = ("--partial", "--scales", "0.25", "--save", "overlay")  # small inputs, for speed
    words = ("predict", "test", "--weights", network, "--cityscapes-submission", "out/a.zip", *seen)
    code, stdout, stderr = drn_here(*words, "--json")
    assert code == 0, stderr
    assert "out/a.zip: 2 maps" in stderr
    with zipfile.ZipFile("out/a.zip") as archive:
        assert archive.namelist() == [f"{frame}_labelIds.png" for frame in FRAMES]
        for frame in FRAMES:
            index = Path("predictions/index", frame.partition("_")[0], f"{frame}_leftImg8bit.png")
            with Image.open(io.BytesIO(archive.read(f"{frame}_labelIds.png"))) as packed:
                assert (packed.mode, packed.size) == ("L", SIZE)
                assert np.array_equal(np.asarray(packed), label_ids(index))
    (berlin, _) = json.loads(stdout)["results"]
    assert list(berlin) == ["image", "index", "overlay"]  # index maps are written for the zip

    Path("out/a.zip").rename("first.zip")
    code, stdout, _ = drn_here(*words, "--skip-existing")
    assert "0 images segmented" in stdout
    assert Path("out/a.zip").read_bytes() == Path("first.zip").read_bytes()
    Path("test/test_images.txt").write_text(
        "".join(f"{frame.partition('_')[0]}/{frame}_leftImg8bit.png\n" for frame in FRAMES)
    )
    code, stdout, _ = drn_here("data", "check-submission", "out/a.zip", "--data", "test")
    assert "the server should take it" in stdout
    assert "error" not in stdout


def test_wrong_names_and_numbers_are_errors_before_prediction(drn_here, network, street) -> None:
    words = ("predict", "test", "--weights", network, "--cityscapes-submission", "a.zip")
    assert "berlin has 1 instead of 544" in drn_here(*words)[2]
    Image.new("RGB", SIZE).save(street / "bonn" / "street.png")
    code, _, stderr = drn_here(*words, "--partial")
    assert "street.png: not a name of Cityscapes" in stderr
    assert code == 1
    assert not Path("predictions").exists() and not Path("a.zip").exists()


@pytest.mark.parametrize("stale", [False, True])
def test_no_zip_is_written_if_an_image_cannot_be_read(drn_here, network, street, stale) -> None:
    """The header with the size is intact, so that only the prediction fails."""
    shutil.rmtree(street / "berlin")
    (path,) = (street / "bonn").iterdir()
    path.write_bytes(path.read_bytes()[:2000])
    if stale:  # an index map of an earlier run, which must not be packed
        Path("predictions/index/bonn").mkdir(parents=True)
        Image.new("L", SIZE).save(Path("predictions/index/bonn", path.name))
    words = ("predict", "test", "--weights", network, "--cityscapes-submission", "a.zip")
    code, _, stderr = drn_here(*words, "--partial")
    assert f"{path.name}: broken image" in stderr
    assert not Path("a.zip").exists()
    assert code == 1
