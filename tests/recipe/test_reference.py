import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from drn_cli.cli.recipes import app
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe, shipped_recipes
from drn_cli.recipe.reference import reference
from drn_cli.recipe.schema import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
ROW = re.compile(r"\| `([\w.]+)` \| (.*) \| (.*) \| (.*) \|")


def fields(section: type[BaseModel], name: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield every key of the schema, without JSON Schema, with its description."""
    for key, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{name}{key}.")
        else:
            yield name + key, field.description


def rows() -> dict[str, tuple[str, ...]]:
    """Return the cells of each key: what it takes, its default and its meaning."""
    found = [ROW.fullmatch(line) for line in reference().splitlines() if line.startswith("| `")]
    assert all(found)
    return {row[1]: (row[2], row[3], row[4]) for row in found if row}


def test_the_page_is_what_the_command_prints() -> None:
    result = CliRunner(env={"COLUMNS": "40"}).invoke(app, ["reference"])
    assert result.exit_code == 0
    assert result.stdout == reference()
    remedy = "docs/recipes.md is out of date: drn recipes reference > docs/recipes.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), remedy


def test_contains_every_key_once_with_its_description() -> None:
    lines = [line for line in reference().splitlines() if line.startswith("| `")]
    found = rows()
    assert len(lines) == len(found)
    assert {key: row[2] for key, row in found.items()} == dict(fields(Recipe))


def test_contains_every_section_docstring() -> None:
    sections = re.findall(r"^## (.+)\n\n(.+)\n\n\| key", reference(), re.MULTILINE)
    named = {(key.rpartition(".")[0] or "Top level") for key, _ in fields(Recipe)}
    assert {name for name, _ in sections} == named
    assert ("train.schedule", "Learning rate schedule.") in sections


@pytest.mark.parametrize(
    ("key", "takes", "default"),
    [
        ("task", "`classification` or `segmentation`", "required"),
        ("model.weights", "text or `null`", "`null`"),
        ("data.classes", "whole number from 1 up to 100000", "required"),
        ("data.workers", "whole number or `auto`", "`auto`"),
        ("augment.flip", "`true` or `false`", "`true`"),
        ("loss.class_weights", "list of numbers or `null`", "`null`"),
        ("loss.ohem_keep", "number above 0 up to 1", "`0.0625`"),
        ("train.momentum", "number from 0 but below 1", "`0.9`"),
        ("train.weight_decay", "number from 0", "`0.0001`"),
        ("train.compile", "`true`, `false` or `auto`", "`auto`"),
        ("train.optimiser.betas", "list of 2 numbers", "`[0.9, 0.999]`"),
        ("train.schedule.kind", "`step`, `poly`, `cosine` or `constant`", "`step`"),
        ("eval.scales", "list of numbers (at least 1)", "`[1]`"),
    ],
)
def test_values_and_defaults(key: str, takes: str, default: str) -> None:
    assert rows()[key][:2] == (takes, default)


def test_defaults_can_be_written_in_a_recipe() -> None:
    required = {key for key, row in rows().items() if row[1] == "required"}
    defaults = [f"{key}={row[1][1:-1]}" for key, row in rows().items() if key not in required]
    written = load_recipe("drn_d_22_camvid", defaults).recipe
    least = Recipe.model_validate(
        {
            "task": written.task,
            "model": {"arch": written.model.arch},
            "data": {"root": written.data.root, "classes": written.data.classes},
            "augment": {"crop": written.augment.crop},
            "train": {
                "epochs": written.train.epochs,
                "batch_size": written.train.batch_size,
                "lr": written.train.lr,
            },
        }
    )
    assert written == least
    assert len(required) == 8


def test_the_example_is_a_recipe(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", reference(), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    recipe = load_recipe(str(tmp_path / "mine.yaml")).recipe
    assert (recipe.data.classes, recipe.train.epochs) == (5, 100)
    # What the example does not say is as in the recipe that it extends, in the same section too.
    assert recipe.train.schedule.kind == load_recipe("drn_d_22_camvid").recipe.train.schedule.kind
    assert "drn_d_22_camvid" in shipped_recipes()


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.accumulate=3", "train.batch_size=8"],
        ["loss.class_weights=[1,2]", "data.classes=3"],
        ["data.classes=256"],
        ["loss.kind=ohem", "task=classification"],
        ["train.checkpoint_activations=true", "train.compile=true"],
    ],
)
def test_rules_across_keys(overrides: list[str]) -> None:
    assert overrides[0].partition("=")[0] in reference().partition("## ")[0] or len(overrides) == 1
    with pytest.raises(DrnError):
        load_recipe("drn_d_22_camvid", overrides)
