"""Generated from the schema: JSON Schema of recipe files, and a reference page of every key."""

import json
from collections.abc import Iterator
from typing import Any

from drn_cli.recipe.schema import Recipe

INTRODUCTION = """\
# Recipes

A recipe is a YAML file with all settings of a training run. `drn recipes list` lists the recipes
that come with `drn`; `drn recipes copy drn_d_22_camvid mine.yaml` copies one, with its comments,
for you to edit. Or extend one and write only what differs:

```yaml
extends: drn_d_22_camvid

data:
  root: /data/mine
  classes: 5

train:
  epochs: 100
  schedule: {warmup: 2}
```

* **`extends`** names a shipped recipe, or a file by its path relative to this one. The two are
  merged key by key; a list replaces the other list. The bases `_camvid`, `_cityscapes` and
  `_imagenet` hold what the recipes of a dataset share, and have no network.
  A chain has at most 16 recipes; a recipe is a regular file of at most 256 KiB.
* **Overrides** on the command line, `KEY=VALUE`, replace values of the recipe. The key is dotted
  and the value is YAML: `train.lr=0.005`, `eval.scales=[0.5,1,1.5]`, `model.weights=null`. The last
  override of a key wins.
* **Paths** in a recipe are relative to the current folder.
* **Errors** name file, line and key before anything starts, also for unknown keys.
  `drn recipes check mine.yaml` only validates, `drn recipes show mine.yaml --resolved` prints every
  key with its final value, and `drn train mine.yaml --dry-run` checks data, memory and disk too.
* **Editors** complete and check recipes with the JSON Schema that `drn recipes schema` prints.

Some keys depend on each other: `train.accumulate` divides `train.batch_size`;
`loss.class_weights` has one number for each of `data.classes`; label maps hold at most 255 classes;
`loss.kind=ohem` is for segmentation; `train.checkpoint_activations` cannot be combined with
`train.compile=true`; and `model.weights=imagenet` needs `model.width=1`.

`drn recipes reference` prints this page. Required keys have to be in the recipe, or in one that it
extends.
"""

LIMITS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "up to",
    "exclusiveMaximum": "but below",
}
TYPES = {"null": ["`null`"], "boolean": ["`true`", "`false`"], "string": ["text"]}
NUMBERS = {"integer": "whole number", "number": "number"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipe files, for editors that complete and check YAML.

    No key is required in it, because a file may take any of them from the recipe it extends.
    """
    schema = Recipe.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    text = "Recipe to build on: a shipped name, or a path relative to this file."
    extends = {"extends": {"type": "string", "description": text}}
    schema["properties"] = extends | schema["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def reference() -> str:
    """Return the reference page of recipes in Markdown: how they are written, and every key."""
    schema = Recipe.model_json_schema()
    return "\n".join([INTRODUCTION, *_sections("", schema, schema["$defs"])]) + "\n"


def _sections(name: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    """Yield heading, docstring and table of a section, then the sections inside it.

    Args:
        name: Dotted; empty for the recipe itself.
        section: Its JSON Schema.
        definitions: The JSON Schema of every section, by the name of its class.
    """
    yield f"## {name or 'Top level'}\n\n{section['description']}\n"
    yield "| key | takes | default | meaning |\n|---|---|---|---|"
    inner: dict[str, str] = {}
    for field, schema in section["properties"].items():
        key = f"{name}.{field}" if name else field
        if "$ref" in schema:
            inner[key] = schema["$ref"].rpartition("/")[2]
            continue
        default = f"`{_value(schema['default'])}`" if "default" in schema else "required"
        *others, last = _alternatives(schema)
        takes = f"{', '.join(others)} or {last}" if others else last
        cells = (f"`{key}`", takes, default, schema["description"])
        row = " | ".join(cell.replace("|", r"\|") for cell in cells)
        yield f"| {row} |"
    for key, definition in inner.items():
        yield ""
        yield from _sections(key, definitions[definition], definitions)


def _alternatives(schema: dict[str, Any]) -> list[str]:
    """Return in words the kinds of values that a JSON Schema allows."""
    if "anyOf" in schema:
        return [words for one in schema["anyOf"] for words in _alternatives(one)]
    if "enum" in schema or "const" in schema:
        return [f"`{value}`" for value in schema.get("enum", [schema.get("const")])]
    if schema["type"] in NUMBERS:
        limits = [f" {LIMITS[key]} {_value(schema[key])}" for key in LIMITS if key in schema]
        return [NUMBERS[schema["type"]] + "".join(limits)]
    if schema["type"] != "array":
        return TYPES[schema["type"]]
    if "prefixItems" in schema:
        (each,) = _alternatives(schema["prefixItems"][0])
        return [f"list of {len(schema['prefixItems'])} {each}s"]
    (each,) = _alternatives(schema["items"])
    least = f" (at least {schema['minItems']})" if "minItems" in schema else ""
    return [f"list of {each}s{least}"]


def _value(value: Any) -> str:
    """Return a value as written in a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
