"""What a run was and what it cost: throughput, the recipe, the machine, the data, resumes."""

import json
import shlex
import statistics
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from drn_cli.report.history import number
from drn_cli.report.summary import Summary
from drn_cli.report.words import duration, percent, short, size

# What environment.json says and how it is called here; what is not named is shown as it is.
NAMES = {
    "drn": "drn",
    "torch": "PyTorch",
    "torchvision": "torchvision",
    "python": "Python",
    "platform": "Platform",
    "device": "Device",
    "gpu_memory": "Memory of the GPU",
    "cores": "CPU cores",
    "processes": "Processes",
    "precision": "Precision",
    "compiled": "Compiled",
    "command": "Command",
    "job": "Job",
    "revision": "Revision of drn",
    "seed": "Seed",
    "started": "Started",
    "train_pictures": "Training pictures",
    "val_pictures": "Validation pictures",
    "parameters": "Parameters",
}
WIDE = 40  # letters, from which a value has a line to itself
APART = ("data", "resumed")  # have tables of their own


def definitions(facts: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """Lay out names and plain text as a definition list."""
    entries = []
    for name, value in facts:
        wide = ' class="wide"' if len(value) > WIDE else ""
        entries.append(f"<div{wide}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>")
    return f'<dl class="{kind}">{"".join(entries)}</dl>'


def throughput_section(summary: Summary) -> str:
    """Say how fast the run was; medians, because a line may hold a validation or a pause."""
    history = summary.history
    facts = []
    for name, key, say in (
        ("Pictures a second, median", "images_per_second", short),
        ("Time spent waiting for data, median", "waiting", percent),
    ):
        values = [value for record in history.train if (value := number(record, key)) is not None]
        if values:
            facts.append((name, say(statistics.median(values))))
    memory = [value for record in history.train if (value := number(record, "memory"))]
    if memory:
        facts.append(("Memory of the GPU, highest", size(max(memory))))
    validations = [value for record in history.val if (value := number(record, "seconds"))]
    if validations:
        facts.append(("A validation, median", duration(statistics.median(validations))))
    facts.append(("Steps", f"{history.step:,}"))
    if history.seconds is not None:
        facts.append(("Wall time in all", duration(history.seconds)))
    return f'<section id="throughput"><h2>Throughput</h2>{definitions(facts)}</section>'


def recipe_section(text: str) -> str:
    """Show the resolved recipe as it stands in the run folder."""
    return (
        '<section id="recipe"><h2>Recipe</h2><details><summary>recipe.yaml, with every setting'
        '</summary><pre tabindex="0" role="region" aria-label="Recipe">'
        f"{escape(text)}</pre></details></section>"
    )


def environment_section(environment: Mapping[str, Any]) -> str:
    """Show versions, device, command, hashes of the data's lists, and resumes."""
    others = [key for key in environment if key not in NAMES and key not in APART]
    told = [key for key in (*NAMES, *others) if environment.get(key) is not None]
    facts = [(NAMES.get(key, key), _said(key, environment[key])) for key in told]
    parts = [definitions(facts) if facts else "<p>The run folder has no environment.json.</p>"]
    hashes = environment.get("data")
    if isinstance(hashes, dict) and hashes:
        rows = [(name, str(value)) for name, value in hashes.items()]
        parts.append(_table("SHA-256 of the data's lists", ("file", "SHA-256"), rows, "hashes"))
    resumed = environment.get("resumed")
    if isinstance(resumed, list) and resumed:
        resumes = [_resume(entry) for entry in resumed if isinstance(entry, dict)]
        columns = ("resumed", "at step", "processes", "changes", "command")
        parts.append(_table("Resumes", columns, resumes, "list"))
    return f'<section id="environment"><h2>Environment</h2>{"".join(parts)}</section>'


def _said(key: str, value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "command" and isinstance(value, list):
        return shlex.join(map(str, value))
    if key == "gpu_memory" and isinstance(value, int):
        return size(value)
    if isinstance(value, int) and key != "seed":
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _resume(entry: Mapping[str, Any]) -> tuple[str, ...]:
    changes = entry.get("changes")
    changed = (
        ", ".join(f"{key}: {_change(change)}" for key, change in changes.items())
        if isinstance(changes, dict) and changes
        else "none"
    )
    told = (_said(key, entry.get(key)) for key in ("at", "step", "processes"))
    return (*told, changed, _said("command", entry.get("command")))


def _change(change: Any) -> str:
    if isinstance(change, list) and len(change) == 2:
        return " → ".join(json.dumps(value, ensure_ascii=False) for value in change)
    return json.dumps(change, ensure_ascii=False)


def _table(
    caption: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], kind: str
) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
