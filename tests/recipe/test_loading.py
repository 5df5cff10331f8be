import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from drn_cli.errors import DrnError
from drn_cli.recipe.loading import diff_recipes, load_recipe, resolved_yaml
from drn_cli.recipe.reference import json_schema
from drn_cli.recipe.schema import Recipe

GOOD = """\
# a recipe
task: segmentation
model:
  arch: drn_d_22
data:
  root: images
  classes: 3
augment:
  crop: 64
train:
  epochs: 2
  batch_size: 4
  lr: 1e-2
"""

# Nine aliases of nine aliases, and so on: a gigabyte from 300 bytes.
BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n".encode() for n in range(1, 10)
)
BOMB_IN_A_LINE = "[&a [x, x, x, x]"
for letter, before in zip("bcdefghijk", "abcdefghij", strict=True):
    BOMB_IN_A_LINE += f", &{letter} [{', '.join([f'*{before}'] * 4)}]"
BOMB_IN_A_LINE += "]"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def refusal(recipe: str, *overrides: str) -> DrnError:
    with pytest.raises(DrnError) as caught:
        load_recipe(recipe, overrides)
    return caught.value


def refusal_of(text: str | bytes, folder: Path) -> DrnError:
    (folder / "my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return refusal("my.yaml")


def test_a_file_is_loaded_with_its_defaults(here: Path) -> None:
    loaded = load_recipe("good.yaml")
    assert (loaded.name, loaded.path, loaded.overrides) == ("good", "good.yaml", ())
    assert loaded.recipe.train.lr == 0.01  # 1e-2 is text to PyYAML
    assert loaded.recipe.train.momentum == 0.9


def test_an_existing_file_needs_no_suffix_and_wins_over_a_shipped_name(here: Path) -> None:
    (here / "demo").write_text(GOOD)
    assert load_recipe("demo").recipe.data.root == "images"
    (here / "demo").unlink()
    assert load_recipe("demo").recipe.data.root == "drn-demo/data"


def test_overrides_come_last_and_are_yaml(here: Path) -> None:
    overrides = ("train.lr=1e-4", "eval.scales=[0.5, 1]", "model.weights=", "train={lr: 3e-5}")
    loaded = load_recipe("good.yaml", overrides)
    assert loaded.overrides == overrides
    assert loaded.recipe.train.lr == 3e-5
    assert loaded.recipe.train.epochs == 2  # a mapping is merged, not replaced
    assert loaded.recipe.eval.scales == (0.5, 1)
    assert load_recipe("good.yaml", ["model.weights=x.pth"]).recipe.model.weights == "x.pth"
    assert load_recipe("good.yaml", ["data.root=a=b"]).recipe.data.root == "a=b"


def test_extends_merges_mappings_and_replaces_the_rest(here: Path) -> None:
    (here / "bases").mkdir()
    (here / "bases/low.yaml").write_text(f"{GOOD}eval:\n  scales: [0.5, 1]\n")
    (here / "bases/middle.yaml").write_text("extends: low.yaml\ntrain:\n  lr: 0.5\n")
    (here / "top.yaml").write_text("extends: bases/middle.yaml\neval: {scales: [2]}\n")
    recipe = load_recipe("top.yaml").recipe
    assert (recipe.train.lr, recipe.train.epochs, recipe.eval.scales) == (0.5, 2, (2,))


def test_a_file_can_extend_the_shipped_recipe_of_its_own_name(here: Path) -> None:
    (here / "demo.yaml").write_text("extends: demo\ntrain: {seed: 7}\n")
    recipe = load_recipe("demo.yaml").recipe
    assert (recipe.train.seed, recipe.model.arch) == (7, "drn_d_22")


def test_a_cycle_names_its_chain(here: Path) -> None:
    (here / "a.yaml").write_text("extends: b.yaml\n")
    (here / "b.yaml").write_text("\nextends: ./a.yaml\n")
    assert refusal("a.yaml").message == (
        "b.yaml:2: extends: a recipe cannot extend itself: a.yaml -> b.yaml -> a.yaml"
    )


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("extends: nowhere.yaml", "my.yaml:1: extends: nowhere.yaml: no such file", "list"),
        ("extends: dem", "my.yaml:1: extends: unknown recipe 'dem'", "did you mean demo?"),
        ("extends: [demo]", "my.yaml:1: extends: should be the name or the path of a", None),
    ],
)
def test_refuses_invalid_extends(here: Path, line: str, message: str, hint: str | None) -> None:
    error = refusal_of(line, here)
    assert error.message.startswith(message)
    assert (hint or "") in (error.hint or "")


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        ("epochs: 2", "epochs: 2\n  epohcs: 2", ":12: train.epohcs: unknown key", "epochs?"),
        ("task:", "lr: 1\ntask:", ":2: lr: unknown key", "did you mean train.lr?"),
        ("task:", "extend: demo\ntask:", ":2: extend: unknown key", "did you mean extends?"),
        ("lr: 1e-2", "lr: -1", ":13: train.lr: should be greater than 0, got -1", None),
        ("lr: 1e-2", "lr: fast", ":13: train.lr: should be a number, got 'fast'", None),
        ("lr: 1e-2", "lr: .inf", ":13: train.lr: should be a finite number, got inf", None),
        ("epochs: 2", "epochs: 2.5", ":11: train.epochs: should be a whole number, got 2.5", None),
        ("epochs: 2", "epochs: yes", ":11: train.epochs: should be a number, got true", None),
        ("root: images", "root: 7", ":6: data.root: should be text, got 7", "quotes"),
        (
            "task: segmentation",
            "task: segment",
            ":2: task: should be classification or segmentation, got 'segment'",
            "did you mean segmentation?",
        ),
        (
            "classes: 3",
            "classes: 3\n  workers: x",
            ":8: data.workers: should be a whole number or auto, got 'x'",
            None,
        ),
        ("drn_d_22", "drn_d_33", ":4: model.arch: unknown architecture 'drn_d_33'", "drn_d_38?"),
        (
            "arch: drn_d_22",
            "arch: drn_d_22\n  weights: imagenet\n  width: 0.5",
            ":6: model.width: the published imagenet weights need width 1.0, not 0.5",
            "weights null",
        ),
        (
            "drn_d_22",
            "drn_d_22\n  width: 5",
            ":5: model.width: should be less than or equal to 4, got 5",
            None,
        ),
        (
            "classes: 3",
            "classes: 256",
            ":7: data.classes: a label map holds at most 255 classes",
            None,
        ),
        ("task:", "eval:\ntask:", ":2: eval: should be a mapping, got nothing", "scales"),
        ("task:", "eval: 3\ntask:", ":2: eval: should be a mapping, got 3", "scales, flip, tile"),
        ("task:", "eval: {scales: 2}\ntask:", ":2: eval.scales: should be a list, got 2", None),
        ("task:", "eval: {scales: []}\ntask:", ":2: eval.scales: should not be empty", None),
        (
            "task:",
            "eval:\n  scales:\n  - 1\n  - two\ntask:",
            ":5: eval.scales[1]: should be a number, got 'two'",
            None,
        ),
        ("  lr: 1e-2\n", "", ": train.lr: missing", "Initial learning rate."),
        ("augment:\n  crop: 64\n", "", ": augment: missing", "It needs crop"),
    ],
)
def test_an_error_names_file_line_and_key(
    here: Path, before: str, after: str, message: str, hint: str | None
) -> None:
    assert GOOD.count(before) == 1
    error = refusal_of(GOOD.replace(before, after), here)
    assert "\n" not in error.message
    assert error.message.startswith(f"my.yaml{message}")
    assert hint in error.hint if hint and error.hint else error.hint == hint


def test_reports_every_error_in_the_order_of_the_file(here: Path) -> None:
    text = GOOD.replace("lr: 1e-2", "lr: 0\n  sed: 3").replace("crop: 64", "crop: x")
    text = text.replace("  batch_size: 4\n", "")
    error = refusal_of(text, here)
    assert error.message.splitlines() == [
        "my.yaml:9: augment.crop: should be a whole number, got 'x'",
        "my.yaml:12: train.lr: should be greater than 0, got 0",
        "my.yaml:13: train.sed: unknown key (did you mean seed?)",
        "my.yaml: train.batch_size: missing (Images per step, over all processes.)",
    ]


def test_an_error_in_an_extended_file_names_that_file(here: Path) -> None:
    (here / "base.yaml").write_text(GOOD.replace("lr: 1e-2", "lr: -1"))
    error = refusal_of("extends: base.yaml\ntrain:\n  epochs: 0\n", here)
    assert error.message.splitlines() == [
        "base.yaml:13: train.lr: should be greater than 0, got -1",
        "my.yaml:3: train.epochs: should be greater than or equal to 1, got 0",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "command line: train.lr: not KEY=VALUE"),
        ("=3", "command line: =3: not KEY=VALUE"),
        ("train..lr=3", "command line: train..lr=3: not KEY=VALUE"),
        ("train.lr=-1", "command line: train.lr=-1: should be greater than 0, got -1"),
        ("train.timeout=1e15", "command line: train.timeout=1e15: should be less than or equal to"),
        ("train={lr: -1}", "command line: train={lr: -1}: train.lr: should be greater than 0"),
        ("train=3", "command line: train=3: should be a mapping, got 3"),
        ("train.lr.x=3", "command line: train.lr.x=3: train.lr: should be a number, got a map"),
        ("train.epohcs=3", "command line: train.epohcs=3: unknown key"),
        ("eval.scales=[1", "command line: eval.scales=[1: not valid YAML: expected ','"),
        (
            "train.optimiser.betas=[]",
            "command line: train.optimiser.betas=[]: should have more val",
        ),
        (
            "train.optimiser.betas=[0, 0, 0]",
            "command line: train.optimiser.betas=[0, 0, 0]: should have fewer values, got [0",
        ),
        ("eval.scales=[1, -2]", "command line: eval.scales=[1, -2]: should all be above 0, got"),
        ("data={root: a, root: b}", "command line: data={root: a, root: b}: root: duplicate key"),
        (
            "data.root=\x01",
            "command line: data.root=\x01: not valid YAML: control character U+0001",
        ),
        ("data.root=2024-02-31", "command line: data.root=2024-02-31: '2024-02-31' cannot be read"),
        (f"data.root={BOMB_IN_A_LINE}", "command line: data.root=[&a [x, x"),
        (f"data.root={'[' * 3000}", "command line: data.root=[[["),
        (f"train{'.lr' * 5000}=1", "command line: train.lr.lr"),
        (f"train.epochs=0x{'f' * 9000}", "command line: train.epochs=0xfff"),
        (f"train.epochs={'9' * 9000}", "command line: train.epochs=999"),
    ],
)
def test_an_error_in_an_override_names_the_command_line(
    here: Path, override: str, message: str
) -> None:
    error = refusal("good.yaml", override)
    assert error.message.startswith(message)
    assert "\n" not in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "my.yaml: is empty"),
        (b"# nothing yet\n", "my.yaml: is empty"),
        (b"- a\n- b\n", "my.yaml:1: should be a mapping, got ['a', 'b']"),
        (b"task: segmentation\ndata:\n  root: caf\xe9\n", "my.yaml:3: not UTF-8 text: byte 0xe9"),
        (b"task: x\ndata: {root: [1}\n", "my.yaml:2:16: not valid YAML: expected ',' or ']'"),
        (b"data:\n\troot: x\n", "my.yaml:2:1: not valid YAML: found character '\\t'"),
        (b"task: x\nroot: a\x07b\n", "my.yaml:2: not valid YAML: control character U+0007"),
        (b"a: !made.up 3\n", "my.yaml:1:4: not valid YAML: could not determine a constructor"),
        (b"a: 1\n---\nb: 2\n", "my.yaml:2:1: not valid YAML: but found another document"),
        (b"data:\n  root: a\n\n  root: b\n", "my.yaml:4: root: duplicate key"),
        (b"data:\n  7: a\n", "my.yaml:2: a key should be text, got 7"),
        (b"on: a\n", "my.yaml:1: a key should be text, got on"),
        (b"? [a, b]\n: c\n", "my.yaml:1: a key should be text, got a collection"),
        (b"a: &x {b: 1}\nc:\n  <<: *x\n", "my.yaml:3: merge keys (<<) are not supported"),
        (b"a: &x\n  b: *x\n", "my.yaml:1: an anchor that contains its own alias"),
        (b"\na: " + b"[" * 3000, "my.yaml:2: not valid YAML: nested too deeply"),
        (b"a: " + b"{b: " * 3000, "my.yaml:1: not valid YAML: nested too deeply"),
        (b"- " * 3000, "my.yaml:1: not valid YAML: nested too deeply"),
        (BOMB, "my.yaml:1: more than 20,000 values, with aliases expanded"),
        (b"a: [" + b"1," * 30_000 + b"]", "my.yaml:1: more than 20,000 values"),
        (b"#" * 300_000, "my.yaml: is larger than 256 KiB"),
        (b"a: " + b"9" * 5000, "my.yaml:1: "),
    ],
)
def test_refuses_files_that_are_not_mappings(here: Path, text: bytes, message: str) -> None:
    assert refusal_of(text, here).message.startswith(message)


def test_an_alias_repeats_a_value(here: Path) -> None:
    text = GOOD.replace("epochs: 2", "epochs: &n 2").replace("batch_size: 4", "batch_size: *n")
    (here / "my.yaml").write_text(text)
    assert load_recipe("my.yaml").recipe.train.batch_size == 2


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("no.yaml", "no.yaml: no such file", "drn recipes list"),
        ("./no", "no: no such file", "drn recipes list"),
        ("./sub", "sub: is a folder, not a recipe", ".yaml"),
        ("drn_d_22_camvd", "unknown recipe 'drn_d_22_camvd'", "did you mean drn_d_22_camvid?"),
        ("drn-d-105", "unknown recipe 'drn-d-105'", "drn_d_105_cityscapes or drn_d_105_imagenet"),
        ("qqq", "unknown recipe 'qqq'", "drn recipes list"),
        ("", "unknown recipe ''", "drn recipes list"),
        ("a" * 300, f"{'a' * 300}: cannot be read: File name too long", ""),
    ],
)
def test_refuses_names_and_paths_that_do_not_exist(
    here: Path, name: str, message: str, hint: str
) -> None:
    (here / "sub").mkdir()
    error = refusal(name)
    assert error.message == message
    assert hint in (error.hint or "")


def test_refuses_long_chains_of_recipes(here: Path) -> None:
    for number in range(1500):
        (here / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    error = refusal("0.yaml")
    assert error.message == "15.yaml:1: extends: a chain of more than 16 recipes"
    (here / "9.yaml").write_text(GOOD)
    assert load_recipe("0.yaml").recipe.train.lr == 0.01


@pytest.mark.parametrize("special", ["pipe.yaml", "/dev/zero"])
def test_only_regular_files_are_read(here: Path, special: str) -> None:
    os.mkfifo(here / "pipe.yaml")
    assert refusal(special).message == f"{special}: is not a regular file"
    (here / "link.yaml").symlink_to(special)
    assert refusal("link.yaml").message == "link.yaml: is not a regular file"
    error = refusal_of(f"extends: {special}\n", here)
    assert error.message == f"my.yaml:1: extends: {special}: is not a regular file"


def test_reads_process_substitution_of_the_shell(here: Path) -> None:
    """`drn train <(sed ... my.yaml)`."""
    reading, writing = os.pipe()
    os.write(writing, GOOD.encode())
    os.close(writing)
    assert load_recipe(f"/dev/fd/{reading}").recipe.train.lr == 0.01
    os.close(reading)


def test_resolved_yaml_loads_as_the_same_recipe(here: Path) -> None:
    overrides = [
        "train.weight_decay=1e-5",
        "data.root='1e3'",
        "data.lists='no: \"caf\u00e9\" #1'",
        "eval.scales=[0.5,1e-5]",
        "data.workers=0",
        "eval.tile=512",
    ]
    recipe = load_recipe("good.yaml", overrides).recipe
    text = resolved_yaml(recipe)
    (here / "resolved.yaml").write_text(text, encoding="utf-8")
    assert load_recipe("resolved.yaml").recipe == recipe
    sections = [line[:-1] for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert ["task", *sections] == list(Recipe.model_fields)


def test_the_schema_describes_every_key_and_requires_none() -> None:
    schema = json_schema()
    assert list(schema["properties"]) == ["extends", *Recipe.model_fields]
    assert schema["additionalProperties"] is False
    assert set(schema["$defs"]) >= {"Model", "Data", "Augment", "Train", "Schedule", "Eval"}
    for section in schema["$defs"].values():
        assert "required" not in section
        assert all("description" in key for key in section["properties"].values())


def test_a_recipe_is_immutable(here: Path) -> None:
    recipe = load_recipe("good.yaml").recipe
    with pytest.raises(ValidationError):
        recipe.train.lr = 1.0


def test_diff_contains_both_values_of_each_different_key(recipe_file: Path) -> None:
    old = load_recipe(str(recipe_file)).recipe
    changes = (
        "train.lr=0.01",
        "train.schedule.kind=step",
        "train.save_every_minutes=null",
        "eval.scales=[0.5,1]",
        "loss.class_weights=[1,2,3]",
        "data.workers=auto",
    )
    new = load_recipe(str(recipe_file), changes).recipe
    assert diff_recipes(old, new) == {
        "data.workers": (0, "auto"),
        "loss.class_weights": (None, [1.0, 2.0, 3.0]),
        "train.lr": (0.0007, 0.01),
        "train.schedule.kind": ("poly", "step"),
        "train.save_every_minutes": (15.0, None),
        "eval.scales": ([1.0], [0.5, 1.0]),
    }
    assert diff_recipes(new, new) == {}


def test_diff_is_empty_after_writing_and_reading(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_file), ["train.lr=1e-05", "loss.class_weights=[1,0,3]"]).recipe
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved_yaml(recipe))
    assert diff_recipes(recipe, load_recipe(str(copy)).recipe) == {}
