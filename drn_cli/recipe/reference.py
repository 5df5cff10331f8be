"""Every key of a recipe on one page of Markdown, made from the schema so that neither can drift."""

import json
from collections.abc import Iterator
from typing import Any

from drn_cli.recipe.schema import Recipe

INTRODUCTION = """\
# Recipes

A recipe is a YAML file that says all of what a training run is. `drn recipes list` names those that
come with `drn`, and `drn recipes copy drn_d_22_camvid mine.yaml` writes one to a file of yours,
comments and all. Or build on one, and say only what differs:

```yaml
extends: drn_d_22_camvid

data:
  root: /data/mine
  classes: 5

train:
  epochs: 100
  schedule: {warmup: 2}
```

* **`extends`** names a shipped recipe, or a file by its path from this one. What the two say is put
  together key by key; a list replaces the other list. The bases `_camvid`, `_cityscapes` and
  `_imagenet` hold what the recipes of a data set share, and name no network.
  At most 16 recipes extend one another; a recipe is a regular file of at most 256 KiB.
* **On the command line**, `KEY=VALUE` replaces what a recipe says, with the sections in the key and
  a value as in YAML: `train.lr=0.005`, `eval.scales=[0.5,1,1.5]`, `model.weights=null`. Of several
  for one key the last counts.
* **Paths** in a recipe start from the folder that the command is given in.
* **Mistakes** are told with file, line and key before anything starts, unknown keys among them.
  `drn recipes check mine.yaml` does just that, `drn recipes show mine.yaml --resolved` prints
  every key as it will be, and `drn train mine.yaml --dry-run` looks at data, memory and disk too.
* **Editors** complete and check recipes with what `drn recipes schema` prints.

Some keys have to suit each other: `train.accumulate` divides `train.batch_size`;
`loss.class_weights` has a number for each of `data.classes`; label maps hold 255 classes at most;
`loss.kind=ohem` is for segmentation; and `train.checkpoint_activations` does not go with
`train.compile=true`.

`drn recipes reference` prints this page. A key that is needed has to be in the recipe, or in one
that it extends.
"""

# The words of JSON Schema for limits, and ours.
LIMITS = (
    ("minimum", "from"),
    ("exclusiveMinimum", "above"),
    ("maximum", "up to"),
    ("exclusiveMaximum", "but below"),
)
# Kinds of values that have no limits.
WORDS = {"null": ["`null`"], "boolean": ["`true`", "`false`"], "string": ["text"]}
NUMBERS = {"integer": "whole number", "number": "number"}
BAR = "\\|"  # a bar that does not end the cell of a table


def reference() -> str:
    """Describe how recipes are written and every key that they can hold, as Markdown."""
    schema = Recipe.model_json_schema()
    return "\n".join([INTRODUCTION, *_sections("", schema, schema["$defs"])]) + "\n"


def _sections(name: str, section: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """Give the heading, docstring and table of a section, and then the sections inside it.

    Args:
        name: Dotted; empty for the recipe itself.
        section: Its JSON Schema.
        known: The JSON Schema of every section, by the name of its class.
    """
    inner: list[tuple[str, dict[str, Any]]] = []
    rows = []
    for field, said in section["properties"].items():
        key = f"{name}.{field}" if name else field
        if "$ref" in said:
            inner.append((key, known[said["$ref"].rpartition("/")[2]]))
        else:
            rows.append(_row(key, said))
    yield f"## {name or 'Top level'}\n\n{section['description']}\n"
    yield "| key | takes | default | meaning |\n|---|---|---|---|"
    yield from rows
    for key, below in inner:
        yield ""
        yield from _sections(key, below, known)


def _row(key: str, said: dict[str, Any]) -> str:
    default = f"`{_value(said['default'])}`" if "default" in said else "needed"
    alternatives = _alternatives(said)
    takes = " or ".join(filter(None, (", ".join(alternatives[:-1]), alternatives[-1])))
    cells = (f"`{key}`", takes, default, said["description"])
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _alternatives(said: dict[str, Any]) -> list[str]:
    """Say in plain words which kinds of values a JSON Schema allows."""
    if "anyOf" in said:
        return [words for one in said["anyOf"] for words in _alternatives(one)]
    if "enum" in said:
        return [f"`{value}`" for value in said["enum"]]
    if "const" in said:
        return [f"`{said['const']}`"]
    kind = said["type"]
    if kind in NUMBERS:
        return [NUMBERS[kind] + _limits(said)]
    return [_list(said)] if kind == "array" else WORDS[kind]


def _limits(said: dict[str, Any]) -> str:
    return "".join(f" {word} {_value(said[limit])}" for limit, word in LIMITS if limit in said)


def _list(said: dict[str, Any]) -> str:
    if "prefixItems" in said:
        (each,) = _alternatives(said["prefixItems"][0])
        return f"list of {len(said['prefixItems'])} {each}s"
    (each,) = _alternatives(said["items"])
    return f"list of {each}s" + (f" (at least {said['minItems']})" if "minItems" in said else "")


def _value(value: Any) -> str:
    """Write a value as one would in a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
