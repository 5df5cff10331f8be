"""Files that version 0.1.0 wrote before the code was rearranged: today's `drn` takes them.

Made with the code of commit 7a0975c, torch 2.14 and OpenVINO 2026.4, large files packed with xz:

    drn data prepare pairs --images raw/images --labels raw/index --classes raw/classes.csv \
        --out data --val 0.3     # the validation labels were then replaced by palette images
    drn train recipe.yaml --run-dir run    # from weights of zeros; interrupted in epoch 2
    drn export colors --format FORMAT --out exports/net.SUFFIX    # for each format

`run` holds a drn_a_18 of zeros: such files take 50 kB where trained weights would take 180 MB, so
the tests hold that they open and go on, not that a trained network predicts as it did. `exports`
hold a network made by hand, almost all zeros too, whose classes are the colors of `data`.
"""

import json
import lzma
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CONFUSION = [[0, 1536, 0], [0, 1600, 0], [0, 2496, 0]]  # zeros, and a bias for green


@pytest.fixture
def old(drn_here, tmp_path: Path):
    """`drn` in a copy of these files: the arguments of a command line -> its JSON document."""
    for path in HERE.rglob("*"):
        copy = tmp_path / path.relative_to(HERE)
        if path.suffix == ".xz":
            copy.parent.mkdir(parents=True, exist_ok=True)
            with lzma.open(path) as packed, copy.with_suffix("").open("wb") as file:
                shutil.copyfileobj(packed, file)
        elif path.is_file() and path.suffix != ".py":
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)

    def drn(line: str, *, as_json: bool = True):
        code, stdout, stderr = drn_here(*line.split(), *(["--json"] if as_json else []))
        assert code == 0, stderr
        return json.loads(stdout) if as_json else stdout

    return drn


def test_run_is_listed_evaluated_reported_and_resumed(old) -> None:
    shutil.copytree("run", "runs/old/run")
    [listed] = old("runs")
    assert (listed["state"], listed["epoch"], listed["epochs"]) == ("interrupted", 1, 4)
    assert old("eval run")["confusion_matrix"] == CONFUSION
    assert len(old("predict data/images --weights run")["results"]) == 8
    old("report run", as_json=False)
    assert "<svg" in Path("run/report.html").read_text()
    assert old("export run --format safetensors --out out.safetensors")["verified"]
    assert old("train --resume run")["run"] == "run"
    [listed] = old("runs run")
    assert (listed["state"], listed["epoch"]) == ("finished", 4)
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("val") == 4


@pytest.mark.parametrize("name", ["onnx", "pt2", "xml", "pth", "safetensors"])
def test_exports_label_images(old, name: str) -> None:
    scores = old(f"eval exports/net.{name} --data data")
    assert scores["miou"] > 0.95
    assert scores["images"] == 2
    if name != "pth":
        assert scores["verified"]


def test_data_folder_is_valid(old) -> None:
    assert old("data check data")["ok"]
