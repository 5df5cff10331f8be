"""A submission to the Cityscapes server: checked by a verb, and made by `drn predict`."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.data.folders import CITYSCAPES
from drn_cli.errors import DrnError
from drn_cli.evaluation import submission
from drn_cli.inference.told import record
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights

SIZE = (2048, 1024)
FRAMES = ("berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`drn` in this process and a folder of its own, where the test set has three pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submission, "TEST_CITIES", {"berlin": 2, "bonn": 1})
    return lambda *words: CliRunner().invoke(app, [*map(str, words)])


def blank(value: int, size: tuple[int, int] = SIZE) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture(scope="module")
def road() -> bytes:
    return blank(7)


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_good_file(run, tmp_path, road):
    path = zipped(tmp_path / "a.zip", {f"{frame}.png": road for frame in FRAMES})
    result = run("data", "check-submission", "a.zip")
    assert result.exit_code == 0, result.output
    assert result.stdout == "a.zip: 3 maps, 0.0 MB: the server should take it\n"
    found = json.loads(run("data", "check-submission", "a.zip", "--json").stdout)
    size = path.stat().st_size
    assert found == {"file": "a.zip", "pictures": 3, "bytes": size, "findings": []}


def test_errors_and_warnings_are_shown_up_to_a_limit(run, tmp_path, road):
    entries = {f"{FRAMES[0]}.png": road, f"{FRAMES[1]}.png": blank(0), "[bold].txt": b""}
    zipped(tmp_path / "a.zip", entries)
    result = run("data", "check-submission", "a.zip")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "error: [bold].txt: is no CITY_SEQUENCE_FRAME*.png",
        "error: not one map for each test picture: 0 of bonn instead of 1",
    ]
    assert lines[2].startswith("warning: some pixels have ids that are not evaluated")
    assert lines[3:] == ["a.zip: 2 maps, 0.0 MB: the server would refuse it"]
    short = run("data", "check-submission", "a.zip", "--limit", "1").stdout.splitlines()
    assert short == [lines[0], "and 2 more", lines[3]]
    found = json.loads(run("data", "check-submission", "a.zip", "--limit", "1", "--json").stdout)
    assert [finding["severity"] for finding in found["findings"]] == ["error", "error", "warning"]


def test_warnings_alone_do_no_harm(run, tmp_path, road):
    zipped(tmp_path / "a.zip", {f"{frame}.png": road for frame in FRAMES[:2]} | {
        f"{FRAMES[2]}.png": blank(0)
    })  # fmt: skip
    result = run("data", "check-submission", "a.zip")
    assert result.exit_code == 0
    assert result.stdout.startswith("warning: ")


def test_data_folder_says_which_pictures_are_wanted(run, tmp_path, road):
    data = tmp_path / "data"
    data.mkdir()
    names = [f"{frame}_leftImg8bit.png" for frame in (*FRAMES[:2], "ulm_000000_000019")]
    for name in names:
        (data / name).touch()  # nobody looks at them
    (data / "test_images.txt").write_text("\n".join(names) + "\n")
    zipped(tmp_path / "a.zip", {f"{frame}.png": road for frame in FRAMES})
    found = run("data", "check-submission", "a.zip", "--data", "data")
    assert found.exit_code == 1
    assert found.stdout.splitlines()[:2] == [
        "error: ulm_000000_000019: is missing of the 3 pictures",
        "error: bonn_000000_000019: is none of the 3 pictures",
    ]
    (data / "test_images.txt").unlink()
    missing = run("data", "check-submission", "a.zip", "--data", "data")
    assert "test_images.txt: no such list" in str(missing.exception)


@pytest.mark.parametrize("content", [None, b"no zip file"])
def test_no_zip_file_is_an_error(run, tmp_path, content):
    if content is not None:
        (tmp_path / "a.zip").write_bytes(content)
    error = run("data", "check-submission", "a.zip").exception
    assert isinstance(error, DrnError)
    assert str(error).startswith("a.zip: no")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of the 19 classes that was never trained."""
    torch.manual_seed(0)
    model = create_model("drn_a_18", "segmentation", 19)
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    save_weights(path, model, record(model, CITYSCAPES, cityscapes()))
    return path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Two pictures as Cityscapes has them, of coloured blocks."""
    for number, frame in enumerate(FRAMES[1:]):
        city = tmp_path / "test" / frame.partition("_")[0]
        city.mkdir(parents=True)
        random = np.random.default_rng(number)
        blocks = random.integers(0, 256, (4, 8, 3)).astype(np.uint8)
        picture = Image.fromarray(blocks.repeat(256, 0).repeat(256, 1))
        picture.save(city / f"{frame}_leftImg8bit.png", compress_level=1)
    return tmp_path / "test"


def label_ids(index: Path) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for label_id, train_id in enumerate(cityscapes_train_ids()):
        if train_id != 255:
            table[train_id] = label_id
    return table[np.asarray(Image.open(index))]


def test_two_pictures_become_a_submission(run, network, street):
    seen = ("--partial", "--scales", "0.25", "--save", "overlay")  # the network sees small ones
    words = ("predict", "test", "--weights", network, "--cityscapes-submission", "out/a.zip", *seen)
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    assert "out/a.zip: 2 maps" in result.stderr
    assert "error" not in result.stderr
    with zipfile.ZipFile("out/a.zip") as archive:
        assert archive.namelist() == [f"{frame}_labelIds.png" for frame in FRAMES[1:]]
        for frame in FRAMES[1:]:
            index = Path("predictions/index", frame.partition("_")[0], f"{frame}_leftImg8bit.png")
            with Image.open(io.BytesIO(archive.read(f"{frame}_labelIds.png"))) as packed:
                assert (packed.mode, packed.size) == ("L", SIZE)
                assert np.array_equal(np.asarray(packed), label_ids(index))
    (berlin, _) = json.loads(result.stdout)["written"]
    assert list(berlin) == ["image", "index", "overlay"]  # it is packed from the former

    Path("out/a.zip").rename("first.zip")
    again = run(*words, "--skip-existing")
    assert "0 pictures labelled" in again.stdout
    assert Path("out/a.zip").read_bytes() == Path("first.zip").read_bytes()
    checked = run("data", "check-submission", "out/a.zip", "--json")
    assert checked.exit_code == 1  # it is not all of the test set
    assert [one["message"] for one in json.loads(checked.stdout)["findings"]] == [
        "not one map for each test picture: 1 of berlin instead of 2"
    ]


def refused(result: Any) -> str:
    """Give the error of a run that ended before anything was predicted."""
    assert isinstance(result.exception, DrnError), result.output
    assert not Path("predictions").exists() and not Path("a.zip").exists()
    return str(result.exception)


def test_pictures_of_another_name_size_or_number_are_refused_first(run, network, street):
    words = ("predict", "test", "--weights", network, "--cityscapes-submission", "a.zip")
    assert "1 of berlin instead of 2" in refused(run(*words))
    Image.new("RGB", (64, 32)).save(street / "bonn" / "bonn_000001_000019_leftImg8bit.png")
    assert "bonn_000001_000019_leftImg8bit.png: is 64x32" in refused(run(*words, "--partial"))
    Image.new("RGB", SIZE).save(street / "bonn" / "street.png")
    assert "street.png: a picture of Cityscapes is called" in refused(run(*words, "--partial"))


def test_network_with_other_classes_is_refused(run, street, tmp_path):
    model = create_model("drn_a_18", "segmentation", 3)
    save_weights(tmp_path / "three.safetensors", model)
    words = ("predict", "test", "--weights", "three.safetensors", "--partial")
    message = refused(run(*words, "--cityscapes-submission", "a.zip"))
    assert "three.safetensors: has 3 classes, the benchmark 19" in message


@pytest.mark.parametrize("stale", [False, True])
def test_picture_that_cannot_be_read_leaves_no_submission(run, network, street, stale):
    """Its size is in the first bytes, so that it is only found when it is predicted."""
    shutil.rmtree(street / "berlin")
    (path,) = (street / "bonn").iterdir()
    path.write_bytes(path.read_bytes()[:2000])
    if stale:  # of another time: what is packed has to be of this picture
        Path("predictions/index/bonn").mkdir(parents=True)
        Path("predictions/index/bonn", path.name).write_bytes(blank(0))
    words = ("predict", "test", "--weights", network, "--cityscapes-submission", "a.zip")
    result = run(*words, "--partial")
    assert f"{path.name}: broken image" in result.stderr
    assert not Path("a.zip").exists()
    assert result.exit_code == 1
