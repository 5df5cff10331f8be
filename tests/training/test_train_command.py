"""`drn train` in real processes: several ranks, signals, and errors that are reported once."""

import json
import os
import signal
from pathlib import Path

import pytest

EPOCH = "train.epochs=1"


def only_run(cwd: Path) -> Path:
    [folder] = (cwd / "runs" / "easy").iterdir()
    return folder


def assert_one_run_of_two(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kinds = [(record["kind"], record["step"]) for record in records]
    assert kinds == [("train", 3), ("val", 3), ("end", 3)]
    assert records[1]["images"] == 5
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert (folder / "checkpoints" / "last.pt").is_file()
    assert (folder / "checkpoints" / "best.safetensors").is_file()


def test_two_processes_make_one_run(drn, thin_recipe_file, tmp_path):
    done = drn("train", thin_recipe_file, EPOCH, "--gpus", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(only_run(tmp_path).relative_to(tmp_path))
    assert_one_run_of_two(only_run(tmp_path))
    assert done.stderr.count("cpu in fp32, 2 processes; run directory") == 1
    assert done.stderr.count("1/1 ") == 1
    assert "Warning" not in done.stderr


def test_torchrun_makes_the_same_run(torchrun, thin_recipe_file, tmp_path):
    done = torchrun("train", thin_recipe_file, EPOCH, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "finished"
    assert_one_run_of_two(only_run(tmp_path))


def test_ctrl_c_in_a_terminal_reaches_every_process(drn, thin_recipe_file, tmp_path, until):
    """The ranks get the signal from the terminal, and again from the launcher."""
    running = drn.begin(
        "train", thin_recipe_file, "train.epochs=500", "--gpus", "2", "--run-dir", "mine"
    )
    until((tmp_path / "mine" / "environment.json").is_file)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (130, ""), err
    assert err.count("SIGINT: stopping after this step") == 1
    assert err.count("interrupted; checkpoint mine/checkpoints/last.pt") == 1
    assert err.count("resume with: drn train --resume mine") == 1
    assert "Traceback" not in err and "error:" not in err


def test_an_error_under_torchrun_is_reported_once(torchrun, thin_recipe_file):
    done = torchrun("train", thin_recipe_file, "data.root=nowhere")
    assert done.returncode != 0
    assert done.stderr.count("error: nowhere: no such data folder") == 1


@pytest.mark.parametrize(
    "again", [[], ["--gpus", "2", "--max-restarts", "2"]], ids=["alone", "two"]
)
def test_a_broken_image_is_reported_once(drn, thin_recipe_file, own_data_folder, again):
    """One of two ranks reads it; the end of the other is not reported, and none restarts."""
    image = own_data_folder / "images" / "3.png"
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 255  # header and end are valid: only decoding fails
    image.write_bytes(data)
    done = drn("train", thin_recipe_file, EPOCH, f"data.root={own_data_folder}", *again)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: {image}: broken image: ")
    assert "Traceback" not in done.stderr
