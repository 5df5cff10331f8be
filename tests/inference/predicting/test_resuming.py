"""Resuming predictions: complete runs, killed and interrupted ones, several processes."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drn_cli import __version__
from drn_cli.cli.predicting.record import open_manifest
from drn_cli.errors import DrnError
from drn_cli.files import sha256

MAKER = {"network": "drn_a_18", "weights": "net.safetensors", "weights_sha256": "first"}
SOME = 60  # images, of which a process is killed in the middle


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.[pn][np][gz]")}


def skipped(result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout.partition(" images/s")[2].partition(":")[0]


def test_skip_existing_predicts_missing_images(predict, photos, files_in, segmenter, tmp_path):
    out = Path("predictions")
    predict("photos", "--out", "whole")
    predict("photos/a.png", "photos/c.png")
    before = times(out)
    (tmp_path / "moved.safetensors").symlink_to(segmenter)  # where the weights lie is all the same
    result = predict("photos", "--skip-existing", weights=tmp_path / "moved.safetensors")
    assert skipped(result) == ", 2 skipped (already exist)"
    assert result.stdout.startswith("2 images segmented")
    assert before.items() <= times(out).items()
    found, whole = files_in(out), files_in(Path("whole"))
    assert found.pop("predictions.json") != whole.pop("predictions.json")
    assert found == whole


def test_predicts_all_without_skip_existing(predict, photos):
    for _ in range(2):
        assert skipped(predict("photos/a.png")) == ""
        Image.open("predictions/index/a.png").load()
        Path("predictions/index/a.png").write_bytes(b"old")


def test_incomplete_image_is_predicted_again(predict, photos, files_in):
    predict("photos")
    whole = files_in(Path("predictions"))
    Path("predictions/overlay/c.png").unlink()
    Path("predictions/colour/deep/d.png").write_bytes(b"")
    found = json.loads(predict("photos", "--skip-existing", "--json").stdout)
    assert [entry["image"] for entry in found["results"]] == ["photos/c.png", "photos/deep/d.png"]
    assert found["skipped"] == 2
    assert files_in(Path("predictions")) == whole


def test_another_kind_is_added(predict, photos):
    predict("photos/a.png", "--save", "index")
    more = predict("photos/a.png", "--save", "index,probabilities", "--skip-existing")
    assert skipped(more) == ""
    fewer = predict("photos/a.png", "--save", "probabilities", "--skip-existing")
    assert skipped(fewer) == ", 1 skipped (already exist)"


def test_unreadable_image_is_retried(predict, photos):
    whole = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(whole[:300])
    assert predict("photos").exit_code == 1
    (photos / "a.png").write_bytes(whole)
    assert skipped(predict("photos", "--skip-existing")) == ", 3 skipped (already exist)"


def record() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the weights of each image's predictions, and the table `made_by`."""
    found = json.loads(Path("predictions/predictions.json").read_text())
    images = {name: found["made_by"][n].get("weights") for name, n in found["images"].items()}
    return images, found["made_by"]


def refusal(result: Any) -> str:
    assert isinstance(result.exception, DrnError), result.output
    return str(result.exception)


def test_record_names_weights_of_each_image(predict, photos, segmenter):
    predict("photos/a.png", "--scales", "0.5,1", "--flip")
    predict("photos/deep/d.png", "--save", "index")
    assert json.loads(Path("predictions/predictions.json").read_text()) == {
        "made_by": [
            made_by(segmenter) | {"scales": [0.5, 1.0], "flip": True},
            made_by(segmenter) | {"files": ["index"]},
        ],
        "images": {"a": 0, "d": 1},
    }


def made_by(weights: Path) -> dict[str, Any]:
    return {
        "drn": __version__,
        "network": "drn_a_18",
        "width": 1.0,
        "weights": str(weights),
        "weights_sha256": sha256(weights),
        "verified": True,
        "mean": [0.37, 0.37, 0.37],
        "std": [0.3, 0.31, 0.32],
        "mean_std_source": "file",
        "scales": [1.0],
        "flip": False,
        "files": ["index", "colour", "overlay"],
    }


def test_predictions_of_another_network_are_refused(
    predict, photos, files_in, segmenter, other_segmenter
):
    predict("photos")
    before = files_in(Path("predictions"))
    for words, count in (
        (["photos/a.png"], "3 images"),
        (["photos", "--save", "index"], "4 images"),
        (["photos", "--skip-existing"], "4 images"),
    ):
        text = refusal(predict(*words, weights=other_segmenter))
        assert f"made with different weights; files of {count} listed in" in text
        assert "choose another --out" in text and "--force" in text
        assert files_in(Path("predictions")) == before
    # Everything again is one command, and so is another view of one image.
    assert skipped(predict("photos", weights=other_segmenter)) == ""
    assert set(record()[0].values()) == {str(other_segmenter)}
    assert skipped(predict("photos/a.png", "--flip", weights=other_segmenter)) == ""
    assert len(record()[1]) == 2
    assert predict("photos/a.png", "--out", "elsewhere").exit_code == 0


def test_force_deletes_recorded_files_only(predict, photos, segmenter, other_segmenter):
    predict("photos", "--save", "index,colour")
    for mine in ("index/mine.png", "overlay/c.png", "notes.txt"):
        Path("predictions", mine).parent.mkdir(exist_ok=True)
        Path("predictions", mine).write_bytes(b"mine")
    words = ("photos/a.png", "--save", "index", "--force")
    assert predict(*words, weights=other_segmenter).exit_code == 0
    left = sorted(str(p.relative_to("predictions")) for p in Path("predictions").rglob("*.*"))
    assert left == [
        ".lock", ".predictions.json.lock", "index/a.png", "index/mine.png", "notes.txt",
        "overlay/c.png", "predictions.json",
    ]  # fmt: skip
    assert record()[0] == {"a": str(other_segmenter)}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("{tmp}/precious", "not a manifest of predictions"),
        ("../../precious", "not a manifest of predictions"),
        ("deep/../../../precious", "not a manifest of predictions"),
        ("linked/precious", "predictions/index/linked: is a symbolic link"),
    ],
)
def test_force_deletes_nothing_outside_output_folder(
    predict, photos, other_segmenter, tmp_path, name, problem
):
    predict("photos/a.png", "--save", "index")
    path = Path("predictions/predictions.json")
    found = json.loads(path.read_text())
    found["images"][name.format(tmp=tmp_path)] = 0
    path.write_text(json.dumps(found))
    (tmp_path / "precious.png").write_bytes(b"mine")
    Path("predictions/index/linked").symlink_to(tmp_path)
    words = ("photos/a.png", "--save", "index", "--force")
    assert problem in refusal(predict(*words, weights=other_segmenter))
    assert (tmp_path / "precious.png").read_bytes() == b"mine"


def test_predictions_of_another_view_are_refused(predict, photos, files_in):
    predict("photos/a.png")
    before = files_in(Path("predictions"))
    for options, words in (
        (["--scales", "0.5"], "scales"),
        (["--ms", "--flip"], "scales and flip"),
        (["--mean", "0.1,0.2,0.3", "--std", "1,1,1"], "mean and std"),
    ):
        text = refusal(predict("photos", *options, "--skip-existing"))
        assert text.startswith(f"predictions/index/a.png: made with different {words}; ")
        assert files_in(Path("predictions")) == before
    # To make all of them again is fine, and so is to continue from there.
    assert skipped(predict("photos/a.png", "--flip")) == ""
    again = predict("photos/a.png", "--flip", "--skip-existing")
    assert skipped(again) == ", 1 skipped (already exist)"


def test_unreadable_image_keeps_its_record(predict, photos, segmenter, other_segmenter):
    predict("photos")
    (photos / "c.png").write_bytes(b"broken")
    result = predict("photos", weights=other_segmenter)
    assert "failed images keep maps of another network or view, 1: c (" in result.stderr
    names = record()[0]
    assert names.pop("c") == str(segmenter)
    assert set(names.values()) == {str(other_segmenter)}


def test_concurrent_runs_keep_their_records(tmp_path):
    def run(number: int) -> None:
        names = [f"{number}-{place}" for place in range(30)]
        for name in names:
            with open_manifest(
                tmp_path, MAKER, [name], ["index"], resume=True, force=False
            ) as made:
                made.finish([])

    with ThreadPoolExecutor(8) as runs:
        list(runs.map(run, range(8)))
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert found["made_by"] == [MAKER | {"files": ["index"]}]
    assert len(found["images"]) == 8 * 30


@pytest.mark.parametrize("names", [["a", "b"], ["b"]])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_concurrent_runs_of_two_networks_are_refused(tmp_path, names, resume, force):
    """The first run has not written its predictions yet."""
    how = {"resume": resume, "force": force}
    other = MAKER | {"weights_sha256": "other"}
    with open_manifest(tmp_path, MAKER, ["a"], ["index"], resume=False, force=False) as first:
        with open_manifest(tmp_path, MAKER, ["b"], ["index"], **how):
            pass
        with (
            pytest.raises(DrnError, match=r"another process writes predictions, and .* has a with"),
            open_manifest(tmp_path, other, names, ["index"], **how),
        ):
            pass
        first.finish([])
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert found["made_by"] == [MAKER | {"files": ["index"]}]
    with open_manifest(tmp_path, other, names, ["index"], **how):
        pass  # nothing of the first remains, as it wrote no file


def test_symlinked_lock_is_refused(predict, photos, tmp_path):
    Path("predictions").mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    Path("predictions/.predictions.json.lock").symlink_to(tmp_path / "mine")
    assert ".predictions.json.lock: is a symbolic link" in refusal(predict("photos"))
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_failed_replacement_clears_recorded_weights(
    predict, photos, segmenter, other_segmenter, monkeypatch
):
    """A process that fails on the way leaves predictions of both networks."""
    predict("photos")
    (Path("predictions/index/deep")).rename("predictions/index/elsewhere")
    Path("predictions/index/deep").write_bytes(b"in the way")
    assert "predictions/index/deep" in refusal(predict("photos", weights=other_segmenter))
    assert set(record()[0].values()) == {None}
    Path("predictions/index/deep").unlink()
    more = predict("photos", "--skip-existing", weights=other_segmenter)
    assert skipped(more) == ""
    assert set(record()[0].values()) == {str(other_segmenter)}


def test_record_of_older_version(predict, photos, segmenter, other_segmenter):
    predict("photos")
    keys = ("drn", "network", "weights", "weights_sha256", "scales", "flip")
    older = {key: value for key, value in made_by(segmenter).items() if key in keys}
    Path("predictions/predictions.json").write_text(json.dumps(older))
    assert "different weights" in refusal(predict("photos/a.png", weights=other_segmenter))
    assert skipped(predict("photos", "--skip-existing")) == ", 4 skipped (already exist)"
    Path("predictions/predictions.json").unlink()
    text = refusal(predict("photos", "--skip-existing"))
    assert text.startswith("predictions/index/a.png: not listed in predictions/predictions.json")
    assert skipped(predict("photos", weights=other_segmenter)) == ""


@pytest.mark.parametrize(
    "content", ["half of a rec", "[]", '{"images": {"a": 0}, "made_by": []}', '{"images": []}']
)
def test_invalid_record_is_an_error(predict, photos, content):
    Path("predictions").mkdir()
    Path("predictions/predictions.json").write_text(content)
    refused = predict("photos", "--skip-existing")
    assert isinstance(refused.exception, DrnError)
    assert str(refused.exception).startswith("predictions/predictions.json")
    assert "another --out" in str(refused.exception)


@pytest.fixture
def many(tmp_path, monkeypatch, drawn) -> list[str]:
    """Names of images in the folder `many`, enough to take a while."""
    monkeypatch.chdir(tmp_path)
    Path("many").mkdir()
    for number in range(SOME):
        drawn(number, 80, 80).save(f"many/{number:02}.png")
    return [f"{number:02}.png" for number in range(SOME)]


def all_of(names: list[str]) -> set[str]:
    kinds = ("index", "colour", "overlay")
    return {f"{kind}/{name}" for kind in kinds for name in names} | {"predictions.json"}


def half_written(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_resumes_after_sigkill(drn, predict, segmenter, many, files_in, until):
    out = Path("predictions")
    process = drn.begin("predict", "many", "--weights", segmenter)
    until(lambda: len(list(out.glob("overlay/*.png"))) >= 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    half = out / "index" / ".07.png.1a2b3c4d.tmp"  # if it was not in the middle of one
    half.write_bytes(b"half")
    before = times(out)
    whole = [name for name in many if all((out / k / name).exists() for k in ("index", "overlay"))]
    assert 5 <= len(whole) < SOME

    result = predict("many", "--skip-existing")
    assert result.stdout.startswith(f"{SOME - len(whole)} images segmented")
    assert skipped(result) == f", {len(whole)} skipped (already exist)"
    assert files_in(out).keys() == all_of(many)
    assert half_written(out) == []
    after = times(out)
    kept = {path for path in before if path.name in whole}
    assert len(kept) == 3 * len(whole)
    assert all(after[path] == before[path] for path in kept)
    predict("many", "--out", "undisturbed")
    assert files_in(out) == files_in(Path("undisturbed"))


def test_ctrl_c_leaves_complete_files(drn, segmenter, many, until):
    out = Path("predictions")
    process = drn.begin("predict", "many", "--weights", segmenter, "--json")
    until(lambda: len(list(out.glob("overlay/*.png"))) >= 5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stdout == ""
    *_, note, last = stderr.splitlines()
    assert last == "interrupted"
    done = re.fullmatch(
        rf"at least (\d+) of {SOME} images predicted \(.* --skip-existing .*\)", note
    )
    assert done
    assert "Traceback" not in stderr
    written = list(out.rglob("*.png"))
    assert 15 <= len(written) < 3 * SOME
    assert 3 * int(done[1]) <= len(written)
    assert half_written(out) == []
    for path in written:
        with Image.open(path) as image:
            assert np.asarray(image).shape[:2] == (80, 80)


@pytest.mark.slow
def test_two_processes_share_the_images(drn, predict, segmenter, photos, files_in, drawn):
    for number in range(5, 9):
        drawn(number).save(photos / f"{number}.png")
    (photos / "4.png").write_bytes(b"broken")
    words = ("photos", "--json", "--save", "index,overlay")
    one = json.loads(predict(*words, "--out", "one").stdout)
    done = drn("predict", *words, "--out", "two", "--weights", segmenter, "--gpus", "2")
    assert done.returncode == 1, done.stderr  # of the broken image
    two = json.loads(done.stdout.replace('"two/', '"one/'))
    assert len(two["results"]) == 8
    for found in (one, two):
        del found["seconds"], found["images_per_second"]
    assert two == one  # in this order, none of them twice
    assert files_in(Path("two")) == files_in(Path("one"))
    assert done.stderr.count("photos/4.png") == 1
    assert done.stderr.count("1 of 9 images failed") == 1
    assert half_written(Path("two")) == []
