"""`drn data cache` as a process, and training that reads through a cache."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

SAMPLES = 12


def test_decodes_once_and_says_what_it_takes(drn, own_data_folder: Path, tmp_path: Path) -> None:
    first = drn("data", "cache", own_data_folder, "--folder", "fast")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "fast decoded 12: 12 samples\n"
    assert "12 samples take 147.7 kB decoded" in first.stderr
    assert "data.cache=disk data.cache_folder=fast" in first.stderr
    assert len(list((tmp_path / "fast").iterdir())) == SAMPLES
    again = drn("data", "cache", own_data_folder, "--folder", "fast")
    assert again.stdout == "fast is up to date: 12 samples\n"
    changed = own_data_folder / "pictures" / "3.png"
    os.utime(changed, (0, changed.stat().st_mtime + 5))
    third = drn("data", "cache", own_data_folder, "--folder", "fast", "--json")
    assert json.loads(third.stdout) == {
        "folder": "fast",
        "samples": SAMPLES,
        "decoded": 1,
        "bytes": 48 * 64 * 4 + 24,
    }
    assert len(list((tmp_path / "fast").iterdir())) == SAMPLES


def test_remove(drn, own_data_folder: Path) -> None:
    assert drn("data", "cache", own_data_folder).returncode == 0
    assert (own_data_folder / "drn-cache").is_dir()
    removed = drn("data", "cache", own_data_folder, "--remove", "--json")
    assert json.loads(removed.stdout)["removed"] == SAMPLES
    assert not (own_data_folder / "drn-cache").exists()
    again = drn("data", "cache", own_data_folder, "--remove")
    assert "removed 0 samples" in again.stdout


def test_broken_picture_is_one_line_and_the_rest_is_kept(drn, own_data_folder: Path) -> None:
    broken = own_data_folder / "pictures" / "11.png"
    broken.write_bytes(broken.read_bytes()[:200])
    failed = drn("data", "cache", own_data_folder)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert f"error: {broken}: broken image" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert any((own_data_folder / "drn-cache").iterdir())


def test_folder_that_cannot_be_made_is_one_line(drn, own_data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    failed = drn("data", "cache", own_data_folder, "--folder", tmp_path / "file" / "cache")
    assert failed.returncode == 1
    assert "error: " in failed.stderr
    assert "file/cache: cannot be made: Not a directory" in failed.stderr


def losses(folder: Path, read_metrics) -> list[dict[str, object]]:
    return [record for record in read_metrics(folder) if record["kind"] == "train"]


@pytest.mark.parametrize(
    "settings",
    [
        ("data.cache=disk", "data.workers=1"),
        ("data.cache=memory", "data.workers=2"),
        ("data.cache=disk", "data.workers=1", "data.start_method=spawn"),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_training_from_the_cache_gives_exactly_the_same_losses(
    drn, trained, recipe_file: Path, own_data_folder: Path, read_metrics, settings, tmp_path: Path
) -> None:
    done = drn(
        *("train", recipe_file, f"data.root={own_data_folder}", *settings),
        *("--run-dir", "cached"),
    )
    assert done.returncode == 0, done.stderr
    assert "12 samples take 147.7 kB decoded in" in " ".join(done.stderr.split())
    assert losses(tmp_path / "cached", read_metrics) == losses(trained.folder, read_metrics)
    kept = own_data_folder / "drn-cache"
    assert kept.is_dir() == (settings[0] == "data.cache=disk")
    left = [path for path in Path("/dev/shm").glob(f"drn-{os.getuid()}-*") if path.is_dir()]
    assert not any(path.name in done.stderr for path in left)  # memory is given back


def test_cache_without_room_is_told_and_done_without(
    drn, recipe_file: Path, own_data_folder: Path
) -> None:
    (own_data_folder / "full").write_text("in the way")
    done = drn(
        *("train", recipe_file, f"data.root={own_data_folder}", "data.cache=disk"),
        *(f"data.cache_folder={own_data_folder / 'full'}", "train.epochs=1"),
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "warning: data.cache=disk:" in said
    assert "pictures are decoded each time they are read" in said


def write_noise(root: Path, count: int) -> None:
    """Write pictures that take a while to decode."""
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(root / "0.png", compress_level=1)
    Image.fromarray(noise[..., 0]).save(root / "0_label.png", compress_level=1)
    for kind, end in (("images", ""), ("labels", "_label")):
        for number in range(1, count):
            (root / f"{number}{end}.png").hardlink_to(root / f"0{end}.png")
        lines = "".join(f"{number}{end}.png\n" for number in range(count))
        (root / f"train_{kind}.txt").write_text(lines)


def test_interrupted_it_goes_on_where_it_was(drn, until, tmp_path: Path) -> None:
    write_noise(tmp_path / "data", 40)
    folder = tmp_path / "data" / "drn-cache"
    process = drn.begin("data", "cache", tmp_path / "data")
    until(lambda: process.poll() is not None or (folder.is_dir() and list(folder.glob("*.raw"))))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    before = len(list(folder.glob("*.raw")))
    assert 0 < before < 40
    done = drn("data", "cache", tmp_path / "data", "--json")
    assert json.loads(done.stdout)["decoded"] == 40 - before
    assert len(list(folder.iterdir())) == 40


def test_recipe_says_what_a_cache_may_be(drn, recipe_file: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["data"]["cache"] = "ram"
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    failed = drn("recipes", "check", "wrong.yaml")
    assert failed.returncode == 1
    assert "disk" in failed.stderr + failed.stdout
