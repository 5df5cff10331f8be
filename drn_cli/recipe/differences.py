"""What sets two recipes apart."""

from collections.abc import Iterator
from typing import Any

from drn_cli.recipe.schema import Recipe


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Give the old and the new value of every key that differs, by its dotted name."""
    before, after = (dict(_leaves(recipe.model_dump(mode="json"))) for recipe in (old, new))
    return {key: (before[key], after[key]) for key in after if before[key] != after[key]}


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
