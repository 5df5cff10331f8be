"""Golden tests: what command lines return, print and write, recorded in the YAML files beside this.

Each file is a list of cases:

    - name: a folder keeps its structure
      given: [photos, run:runs/a/1]  # entries of `world` (conftest.py), or files below one,
                                     # copied into an empty folder, perhaps to another place
      write: {list.txt: "a.png"}     # text files made there
      before: [drn data check data]  # commands that run first and have to succeed
      then: {a.png: noise, b: null}  # text files made, and files removed, after those
      drn: predict photos --json     # the command line under test
      process: true                  # run it in a real process, where signals or torchrun matter
      by_type: true                  # record JSON values by type and text without its numbers;
                                     # `numbers` keeps the text of JSON values
      head: 12                       # record only the first lines of stdout
      read: classes.csv              # a text file it wrote
      exit: 0                        # the rest is recorded: the exit code, if it is not 0,
      json: {...}                    # the JSON document with numbers rounded, or else stdout,
      stderr: ...
      text: ...                      # the content of the file that is read,
      files: [...]                   # and the files that were made or changed

`UPDATE_GOLDEN=1 pytest tests/golden -k CASE` records what commands do now: review the difference.
Usage errors (exit code 2) are recorded as their text alone, without the box that typer draws.
"""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import drn_cli

HERE = Path(__file__).parent
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
RECORDED = ("exit", "json", "stdout", "stderr", "text", "files")
MEASURED = re.compile("seconds$|per_second$")  # JSON keys with another value in each run
VARIABLE = (  # text that differs from run to run, and its replacement
    (re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?"), "<start>"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( UTC|\+00:00)?"), "<date>"),
    (re.compile(r"\b(PyTorch|ONNX Runtime|OpenVINO) \d[\w.+-]*"), r"\1 <version>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b[0-9a-f]{24}-[0-9a-f]{16}\b"), "<sample>"),  # of a cache: path and time
    (re.compile(r"\b\d[\d.]* [kMGT]?B( are)? free"), r"<size>\1 free"),
    (re.compile(r"\b\d+(\.\d+)?( ?)(ms|s|min|images/s|a second)\b"), r"<n>\2\3"),
)
NUMBER = re.compile(r" *(?<![\w.])[+-]?\d[\d.,:]*(e[+-]\d+)?")


def cases() -> list[Any]:
    return [
        pytest.param(path, case, id=f"{path.stem}-{case['name']}")
        for path in sorted(HERE.glob("*.yaml"))
        for case in yaml.load(path.read_text(), yaml.CSafeLoader)
    ]


def stable(text: str, folder: Path, by_type: bool | str = False) -> str:
    text = text.replace(f"{folder}/", "").replace(str(folder), "<here>")
    text = text.replace(folder.name, "<here>")
    text = text.replace(str(Path(drn_cli.__file__).parents[1]), "<source>")
    text = re.sub(rf"(^|(?<=drn )){re.escape(drn_cli.__version__)}\b", "<version>", text)
    for pattern, replacement in VARIABLE:
        text = pattern.sub(replacement, text)
    if by_type:
        text = NUMBER.sub(" <n>", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def document(value: Any, folder: Path, by_type: bool | str, key: str = "") -> Any:
    """Return a JSON value without what the machine, the time or rounding decides."""
    if isinstance(value, dict):
        return {name: document(inner, folder, by_type, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [document(inner, folder, by_type, key) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return "<text>" if by_type is True else stable(value, folder)
    if by_type or MEASURED.search(key):
        return "<number>"
    return float(f"{value:.3g}") if isinstance(value, float) else value


def modified_times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def record(path: Path, name: str, found: dict[str, Any]) -> None:
    head = re.match(r"(#.*\n)*", path.read_text())[0]
    table = yaml.safe_load(path.read_text())
    [case] = (one for one in table if one["name"] == name)
    for key in RECORDED:
        case.pop(key, None)
    case.update(found)
    text = yaml.dump(table, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True)
    path.write_text(head + text)


class Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""

    def ignore_aliases(self, _: Any) -> bool:
        return True

    def represent_str(self, text: str) -> yaml.Node:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, Dumper.represent_str)


def change(folder: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def run(case: dict[str, Any], folder: Path, here: Any, process: Any) -> dict[str, Any]:
    """Run a case's command and return what is recorded of it."""
    by_type = case.get("by_type", False)
    before, words = modified_times(folder), shlex.split(case["drn"])
    if case.get("process"):
        done = process(*words)
        code, stdout, stderr = done.returncode, done.stdout, done.stderr
    else:
        code, stdout, stderr = here(*words)
    found: dict[str, Any] = {"exit": code} if code else {}
    if "--json" in words and stdout:
        found["json"] = document(json.loads(stdout), folder, by_type)
    elif stdout:
        lines = stdout.splitlines()[: case.get("head")]
        found["stdout"] = stable("\n".join(lines), folder, by_type)
    if code == 2:
        boxed = re.findall("^│(.*)│$", stderr, re.MULTILINE)
        stderr = re.sub(" +", " ", " ".join(boxed)).strip() or stderr
    if stderr:
        found["stderr"] = stable(stderr, folder, by_type)
    if "read" in case:
        found["text"] = stable((folder / case["read"]).read_text(), folder, by_type)
    after = modified_times(folder)
    if changed := sorted(stable(n, folder) for n, time in after.items() if before.get(n) != time):
        found["files"] = changed
    return found


@pytest.mark.parametrize(("path", "case"), cases())
def test_command(path, case, world, drn, drn_here, tmp_path):
    for entry in case.get("given", ()):
        name, _, place = entry.partition(":")
        world.copy(name, tmp_path / (place or name))
    change(tmp_path, case.get("write", {}))
    for line in case.get("before", ()):
        code, _, stderr = drn_here(*shlex.split(line.removeprefix("drn ")))
        assert code == 0, stderr
    change(tmp_path, case.get("then", {}))
    found = run(case, tmp_path, drn_here, drn)
    if UPDATE:
        record(path, case["name"], found)
    else:
        assert found == {key: case[key] for key in RECORDED if key in case}
