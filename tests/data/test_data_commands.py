"""`drn data` beyond golden tests: Ctrl-C, links, and training from a cache."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_noise(root: Path, count: int, splits: tuple[str, ...] = ("train",)) -> None:
    """Write images that are slow to decode, and their lists."""
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(root / "0.png", compress_level=1)
    Image.fromarray(noise[..., 0]).save(root / "0_label.png", compress_level=1)
    for kind, end in (("images", ""), ("labels", "_label")):
        for number in range(1, count):
            (root / f"{number}{end}.png").hardlink_to(root / f"0{end}.png")
        lines = "".join(f"{number}{end}.png\n" for number in range(count))
        for split in splits:
            (root / f"{split}_{kind}.txt").write_text(lines)


def interrupted(process) -> str:
    """Interrupt the process group, as a terminal does, and return what it printed."""
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    return stderr


def test_check_can_be_interrupted(drn, until, tmp_path: Path) -> None:
    write_noise(tmp_path / "data", 400, ("train", "val"))
    process = drn.begin("data", "check", tmp_path / "data")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: process.poll() is not None or children.read_text().split())
    interrupted(process)


def test_interrupted_cache_command_resumes(drn, until, tmp_path: Path) -> None:
    write_noise(tmp_path / "data", 40)
    folder = tmp_path / "data" / "drn-cache"
    process = drn.begin("data", "cache", tmp_path / "data")
    until(lambda: process.poll() is not None or (folder.is_dir() and list(folder.glob("*.raw"))))
    interrupted(process)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.raw")}
    assert 0 < len(before) < 40
    done = drn("data", "cache", tmp_path / "data")
    assert done.stdout == f"{folder} decoded {40 - len(before)}: 40 samples\n"
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(after) == 40
    assert before.items() <= after.items()


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
def test_training_from_a_cache_has_exactly_the_same_losses(
    drn, trained, recipe_file: Path, own_data_folder: Path, read_metrics, settings, tmp_path: Path
) -> None:
    done = drn(
        *("train", recipe_file, f"data.root={own_data_folder}", *settings),
        *("--run-dir", "cached"),
    )
    assert done.returncode == 0, done.stderr
    assert "12 samples take 147.7 kB decoded in" in " ".join(done.stderr.split())
    cached, plain = (
        [record for record in read_metrics(folder) if record["kind"] == "train"]
        for folder in (tmp_path / "cached", trained.folder)
    )
    assert cached == plain
    kept = own_data_folder / "drn-cache"
    assert kept.is_dir() == (settings[0] == "data.cache=disk")
    left = [path for path in Path("/dev/shm").glob(f"drn-{os.getuid()}-*") if path.is_dir()]
    assert not any(path.name in done.stderr for path in left)  # memory is given back


def test_trains_without_cache_if_it_does_not_fit(
    drn, recipe_file: Path, own_data_folder: Path
) -> None:
    (own_data_folder / "full").write_text("in the way")
    done = drn(
        *("train", recipe_file, f"data.root={own_data_folder}", "data.cache=disk"),
        *(f"data.cache_folder={own_data_folder / 'full'}", "train.epochs=1", "model.width=0.0625"),
    )
    assert done.returncode == 0, done.stderr
    stderr = " ".join(done.stderr.split())
    assert "warning: data.cache=disk:" in stderr
    assert "images are decoded each time they are read" in stderr


def test_show_does_not_write_through_a_link_into_the_data_folder(
    drn_here, own_data_folder: Path, tmp_path: Path
) -> None:
    image = own_data_folder / "images" / "3.png"
    before = image.read_bytes()
    (tmp_path / "link.png").symlink_to(image)
    code, _, stderr = drn_here("data", "show", own_data_folder, "--out", "link.png")
    assert code == 1
    assert "link.png: already exists in the data folder" in stderr
    assert image.read_bytes() == before
    code, _, _ = drn_here("data", "show", own_data_folder, "--count", "1")
    with Image.open("contact-sheet.png") as sheet:
        assert (code, sheet.format, sheet.width > 1000) == (0, "PNG", True)
