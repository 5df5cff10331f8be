import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from drn_cli.cli.recipes import app
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe, read_text, shipped_recipes


def drn(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, words)


def drn_json(*words: str) -> Any:
    result = drn(*words, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", ["list", "show", "copy", "check", "schema"])
def test_every_verb_has_an_example(verb: str) -> None:
    result = drn(verb, "--help")
    assert result.exit_code == 0
    assert f"drn recipes {verb}" in result.stdout


def test_list_shows_every_recipe_that_can_be_run() -> None:
    rows = drn_json("list")
    assert [row["name"] for row in rows] == list(shipped_recipes())
    assert rows[[row["name"] for row in rows].index("drn_d_105_cityscapes")] == {
        "name": "drn_d_105_cityscapes",
        "arch": "drn_d_105",
        "width": 1.0,
        "task": "segmentation",
        "crop": 840,
        "classes": 19,
        "epochs": 500,
        "batch_size": 16,
        "summary": "DRN-D-105 on Cityscapes, with the settings of the best published result.",
    }
    result = drn("list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in shipped_recipes())


def test_show_prints_the_file_as_it_stands() -> None:
    result = drn("show", "drn_d_22_camvid")
    assert result.stdout == read_text(shipped_recipes()["drn_d_22_camvid"])
    assert "extends: _camvid" in drn("show", "drn_d_22_camvid").stdout
    assert drn("show", "_camvid").stdout.startswith("# What all CamVid recipes share")


def test_show_resolves_with_an_override_or_when_asked() -> None:
    for words in (["--resolved"], ["train.seed=5"]):
        shown = yaml.safe_load(drn("show", "drn_d_22_camvid", *words).stdout)
        expected = load_recipe("drn_d_22_camvid", [word for word in words if "=" in word])
        assert shown == expected.recipe.model_dump(mode="json")
    assert drn_json("show", "demo", "train.seed=5")["train"]["seed"] == 5


def test_copy_writes_a_recipe_that_loads_the_same(here: Path) -> None:
    result = drn("copy", "drn_d_22_camvid")
    assert (result.exit_code, result.stdout) == (0, "")
    copied = here / "drn_d_22_camvid.yaml"
    assert copied.read_text() == read_text(shipped_recipes()["drn_d_22_camvid"])
    assert load_recipe(str(copied)).recipe == load_recipe("drn_d_22_camvid").recipe


def test_copy_takes_a_folder_or_a_new_name(here: Path) -> None:
    (here / "there").mkdir()
    assert drn("copy", "demo", "there").exit_code == 0
    assert drn("copy", "demo", "new/").exit_code == 0
    assert drn("copy", "demo", "deep/mine.yaml").exit_code == 0
    files = {str(file.relative_to(here)) for file in here.rglob("*.yaml")}
    assert files == {"there/demo.yaml", "new/demo.yaml", "deep/mine.yaml"}


def test_copy_overwrites_only_by_force(here: Path) -> None:
    (here / "demo.yaml").write_text("mine")
    result = drn("copy", "demo")
    assert isinstance(result.exception, DrnError)
    assert result.exception.message == "demo.yaml: is there already"
    assert (here / "demo.yaml").read_text() == "mine"
    assert drn("copy", "demo", "--force").exit_code == 0
    assert "drn train demo" in (here / "demo.yaml").read_text()


def test_check_says_what_will_run() -> None:
    result = drn("check", "drn_d_22_camvid", "train.batch_size=3")
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "ok: drn_d_22_camvid: segmentation with drn_d_22, from scratch;"
    )
    assert "epochs of batch 3" in result.stdout
    found = drn_json("check", "drn_d_22_camvid", "train.batch_size=3")
    assert (found["ok"], found["name"]) == (True, "drn_d_22_camvid")
    assert found["overrides"] == ["train.batch_size=3"]
    assert found["recipe"]["train"]["batch_size"] == 3


def test_check_reports_every_mistake(here: Path) -> None:
    Path("mine.yaml").write_text("extends: demo\ntrain:\n  lr: -1\n  epoch: 3\n")
    expected = [
        "mine.yaml:3: train.lr: should be greater than 0, got -1",
        "mine.yaml:4: train.epoch: unknown key (did you mean epochs?)",
    ]
    result = drn("check", "mine.yaml")
    assert isinstance(result.exception, DrnError)
    assert result.exception.message.splitlines() == expected
    result = drn("check", "mine.yaml", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"ok": False, "errors": expected}


def test_schema_knows_the_keys_of_a_recipe() -> None:
    schema = json.loads(drn("schema").stdout)
    assert schema["properties"]["extends"]["type"] == "string"
    assert schema["$defs"]["Train"]["properties"]["lr"]["exclusiveMinimum"] == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from drn_cli.cli.recipes import app; app(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'pydantic', 'yaml'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
