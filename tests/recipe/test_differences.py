from pathlib import Path

from drn_cli.recipe.differences import differences
from drn_cli.recipe.loading import load_recipe, resolved_yaml


def test_each_key_that_differs_with_both_values(recipe_file):
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
    assert differences(old, new) == {
        "data.workers": (0, "auto"),
        "loss.class_weights": (None, [1.0, 2.0, 3.0]),
        "train.lr": (0.0007, 0.01),
        "train.schedule.kind": ("poly", "step"),
        "train.save_every_minutes": (15.0, None),
        "eval.scales": ([1.0], [0.5, 1.0]),
    }
    assert differences(new, new) == {}


def test_a_recipe_differs_in_nothing_from_itself_written_and_read(recipe_file, tmp_path: Path):
    recipe = load_recipe(str(recipe_file), ["train.lr=1e-05", "loss.class_weights=[1,0,3]"]).recipe
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved_yaml(recipe))
    assert differences(recipe, load_recipe(str(copy)).recipe) == {}
