"""`drn bench`: what is printed, written, compared and refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from drn_cli.cli.bench import bench
from drn_cli.errors import DrnError

app = typer.Typer()
app.command()(bench)

QUICK = ("--size", "32", "--rounds", "1", "--warmup", "1")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drn_cli.cli.console.out.width", 160)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def failure(*words: str | Path) -> str:
    result = run(*words)
    assert isinstance(result.exception, DrnError), result.output
    assert not result.stdout
    return str(result.exception)


def test_from_the_shell(drn, tmp_path: Path) -> None:
    done = drn("bench", "drn_a_18", *QUICK, "--threads", "2", "--json", "--out", "now.json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "now.json").read_text())
    assert (found["source"], found["task"], found["classes"]) == ("drn_a_18", "segmentation", 19)
    assert found["parameters"] == 11_186_259
    assert found["verified"] is None  # no file
    assert found["machine"]["threads"] == 2
    (row,) = found["results"]
    assert (row["what"], row["runtime"], row["precision"]) == ("forward", "pytorch", "fp32")
    assert (row["batch"], row["height"], row["width"]) == (1, 32, 32)
    assert row["seconds"]["rounds"] == 1
    assert row["pictures_per_second"] == pytest.approx(1 / row["seconds"]["p50"])


def test_table_beside_an_earlier_one(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    asked = ("drn_a_18", *QUICK, "--task", "classification", "--classes", "4")
    first = run(*asked, "--out", earlier)
    assert first.exit_code == 0, first.output
    name, machine, heading, row = first.stdout.splitlines()
    assert name == "drn_a_18, classification of 4 classes, 11,178,564 parameters"
    assert "cores, threads: " in machine and ", torch " in machine
    assert heading.split() == [
        *("what", "how", "size", "batch", "GFLOPs", "activations"),
        *("p50", "ms", "p90", "ms", "p99", "ms", "pictures/s"),
    ]
    assert row.split()[:7] == ["forward", "pytorch,", "fp32", "32x32", "1", "0.4", "217.1"]

    told = json.loads(earlier.read_text())
    told["results"][0]["seconds"]["p50"] *= 1000
    told["machine"]["torch"] = "1.0"
    earlier.write_text(json.dumps(told))
    done = run(*asked, "--batch", "1,2", "--compare", earlier)
    assert done.exit_code == 0, done.output
    _, _, heading, one, two = done.stdout.splitlines()
    assert heading.split()[-4:] == ["pictures/s", "earlier", "ms", "speed"]
    assert float(one.split()[-1].removesuffix("x")) > 1
    assert len(one.split()) == len(two.split()) + 2  # this batch is new
    assert "measured earlier with something else: torch was 1.0, is " in done.stderr
    assert "none of these was measured earlier" not in done.stderr
    done = run(*asked, "--batch", "3", "--compare", earlier)
    assert "none of these was measured earlier" in done.stderr


def test_lists_multiply(data_folder: Path) -> None:
    what = ("--what", "input,train,forward", "--size", "24x24", "--batch", "2,3")
    more = ("--runtime", "eager", "--data", data_folder, "--workers", "0", "--classes", "3")
    done = run("drn_a_18", *QUICK, *what, *more, "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["results"]
    assert [(row["what"], row["runtime"], row["workers"]) for row in rows] == (
        [("forward", "eager", None)] * 2 + [("train", None, None)] * 2 + [("input", None, 0)] * 2
    )
    sizes = [(24, 24, 2), (24, 24, 3)]
    assert [(row["height"], row["width"], row["batch"]) for row in rows] == 3 * sizes
    assert all(row["seconds"]["p50"] > 0 for row in rows)


def test_a_row_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1_000, 10**12])
    monkeypatch.setattr("drn_cli.bench.measuring.available", lambda _: next(free))
    done = run("drn_a_18", *QUICK, "--batch", "1,2")
    assert done.exit_code == 0, done.output
    one, two = done.stdout.splitlines()[3:]
    assert one.split()[-3:] == ["out", "of", "memory"]
    assert float(two.split()[-1]) > 0
    assert "batch 1: out of memory: needs 217.1 kB for activations, and 1.0 kB are free" in (
        done.stderr.replace("\n", " ")
    )


def test_mistakes(tmp_path: Path, data_folder: Path) -> None:
    assert "unknown architecture 'drn_x'" in failure("drn_x")
    assert "no such run folder or file" in failure("runs/none")
    assert "--runtime onnx: cannot run" in failure("drn_a_18", "--runtime", "onnx")
    assert "there is no GPU" in failure("drn_a_18", "--device", "cuda")
    assert "no such file" in failure("drn_a_18", "--compare", tmp_path / "none.json")
    wanted = ("--what", "input", "--data", tmp_path / "none")
    assert "no such data folder" in failure("drn_a_18", *QUICK, *wanted)
    for words in (
        ("--what", "forwards"),
        ("--size", "12y12"),
        ("--size", "1x2x3"),
        ("--batch", "0"),
        ("--batch", "1;2"),
        ("--precision", "int8"),
        ("--task", "detection"),
    ):
        assert run("drn_a_18", *words).exit_code == 2, words
    text = re.sub(r"[│\s]+", " ", run("drn_a_18", "--size", "512x").stderr)
    assert "'512x': should be WxH, width and height in pixels, or the side of a square" in text


def test_help_does_not_import_torch() -> None:
    code = "import sys, drn_cli.cli.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
