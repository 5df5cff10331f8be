import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import drn_cli
from drn_cli.cli.app import app

HEAVY = {"torch", "numpy", "PIL", "safetensors", "torchvision", "yaml"}

LIGHT = """
import sys
from drn_cli.__main__ import main
sys.argv = ["drn", *sys.argv[1:]]
try:
    main()
finally:
    print("MODULES", *sys.modules, file=sys.stderr)
"""


def verbs() -> list[tuple[str, ...]]:
    """Return all commands, including those of groups."""
    found: list[tuple[str, ...]] = []

    def walk(command, path):
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(path)
            return
        for name, child in inner.items():
            walk(child, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        *(
            [*verb.split(), "--help"]
            for verb in ("train", "eval", "data show", "models", "recipes")
        ),
        ["predict", "-h"],
    ],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(drn, words):
    light = type(drn)(drn.cwd, (sys.executable, "-c", LIGHT))
    done = light(*words)
    assert done.returncode == 0, done.stderr
    [modules] = [line for line in done.stderr.splitlines() if line.startswith("MODULES")]
    imported = {name.partition(".")[0] for name in modules.split()}
    assert "typer" in imported
    assert not imported & HEAVY
    if len(words) == 1:  # typer itself imports pydantic for the options of a verb
        assert "pydantic" not in imported


def test_version(drn):
    done = drn("--version")
    assert (done.returncode, done.stdout) == (0, f"drn {drn_cli.__version__}\n")
    assert done.stderr == ""


def test_help_lists_all_verbs_and_first_steps():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb in {path[0] for path in verbs()}:
        assert verb in result.stdout
    assert "Start here" in result.stdout


@pytest.mark.parametrize("path", [p for p in verbs() if p != ("demo",)], ids=" ".join)
def test_every_verb_has_examples_and_no_word_is_cut(path):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert "…" not in result.stdout
    assert "Example" in result.stdout
    examples = result.stdout.partition("Example")[2]
    assert f"drn {' '.join(path)}" in examples


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nosuchverb"], 2),
        (["train", "--no-such-option"], 2),
        (["predict"], 2),
        (["eval", "--gpus", "0"], 2),
        (["train", "nosuchrecipe"], 1),
        (["train", "demo", "train.nosuchkey=1"], 1),
        (["train", "demo", "--nnodes", "x"], 1),
        (["train", "--resume", "auto", "demo", "train.lr=x"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_do_not_import_torch(drn, words, code):
    done = type(drn)(drn.cwd, (sys.executable, "-c", LIGHT))(*words)
    assert (done.returncode, done.stdout) == (code, "")
    *lines, modules = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert ("Usage: " in lines[0]) if code == 2 else len(lines) == 1
    imported = {name.partition(".")[0] for name in modules.split()}
    assert not imported & {"torch", "torchvision", "numpy"}


def test_without_arguments_it_prints_the_help(drn):
    done = drn()
    assert "Usage: " in done.stdout + done.stderr
    assert "predict" in done.stdout + done.stderr


def test_user_errors_exit_with_1_and_one_line(drn):
    done = drn("eval", "no [bold]such[/] file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no [bold]such[/] file: no such run directory or checkpoint file\n"
    (drn.cwd / "c.csv").write_text("name,id\na,0\n" + "x" * 3_000_000)
    for folder in ("i", "m"):
        (drn.cwd / folder).mkdir()
        Image.new("L", (4, 4)).save(drn.cwd / folder / "0.png")
    words = ("--images", "i", "--labels", "m", "--classes", "c.csv", "--out", "o")
    done = drn("data", "prepare", "pairs", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert "\nerror: c.csv:3: 'xxx" in done.stderr and len(done.stderr) < 5_000
    assert " characters ...] " in done.stderr and "has 1 columns, the header has 2" in done.stderr


@pytest.mark.parametrize("words", [["--debug", "eval", "x"], ["eval", "x", "--debug"]], ids=str)
def test_debug_prints_the_traceback(drn, words):
    done = drn(*words)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "DrnError: x: no such run directory" in done.stderr


def test_debug_applies_to_launched_processes(drn, trained, data_folder, tmp_path):
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    done = drn("eval", "noise", "--data", data_folder, "--gpus", "2", "--debug")
    assert done.returncode == 1
    assert "in read_network" in done.stderr


BROKEN = """
import errno, os, sys
from drn_cli.cli import app
import drn_cli.recipe.loading as loading
def broken(*_): raise {error}
loading.find_recipe = broken
sys.argv = ["drn", "recipes", "show", "x"]
app.main()
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "ZeroDivisionError('first line\\nsecond line')",
            "unexpected error: ZeroDivisionError: first line -> see the traceback with --debug",
        ),
        (
            "OSError(errno.EIO, 'Input/output error', 'a\\x1b.png')",
            "a\\x1b.png: Input/output error -> the disk or network file system failed: check the "
            "kernel log (dmesg)",
        ),
        (
            "PermissionError(errno.EACCES, 'Permission denied', 'a')",
            "a: Permission denied -> check its owner and permissions",
        ),
        (
            "OSError(errno.ENAMETOOLONG, 'File name too long', 'a')",
            "a: File name too long -> choose a shorter name",
        ),
        (
            "OSError(errno.ELOOP, 'Too many levels of symbolic links', 'a')",
            "a: Too many levels of symbolic links -> symbolic links form a loop: remove one",
        ),
        # The pipe of a worker; for stdout, the command would exit silently.
        (
            "BrokenPipeError(errno.EPIPE, 'Broken pipe')",
            "unexpected error: BrokenPipeError: [Errno 32] Broken pipe -> see the traceback with "
            "--debug",
        ),
    ],
    ids=lambda value: value.partition("(")[0],
)
def test_unhandled_exceptions_are_one_line_with_a_hint(drn, error, line):
    done = type(drn)(drn.cwd, (sys.executable, "-c", BROKEN.format(error=error)))()
    assert (done.returncode, done.stderr) == (1, f"error: {line}\n")


@pytest.mark.parametrize("verb", ["recipes list", "recipes schema", "recipes show demo", "--help"])
def test_a_closed_pipe_is_no_error(drn, tmp_path, verb):
    """The reader exits before the first output, unlike `| head`, which may read some."""
    running = drn.begin(*verb.split())
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    stderr = running.stderr.read()
    assert running.wait(timeout=300) == 141
    running.stderr.close()
    assert stderr == ""


def in_shell(drn, command):
    """Run a shell command in which `drn` is this package."""
    script = f'drn() {{ "{sys.executable}" -m drn_cli "$@"; }}; {command}'
    return type(drn)(drn.cwd, ("bash", "-c", script))()


@pytest.mark.parametrize("verb", ["recipes list", "recipes schema", "recipes show demo", "--help"])
def test_a_full_disk_for_stdout_is_one_line(drn, verb):
    done = in_shell(drn, f"drn {verb} > /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "error: stdout: No space left on device -> free space on that disk, or choose another "
        "folder\n",
    )


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-"])
def test_closed_streams_are_no_error(drn, closed):
    done = in_shell(drn, f"drn recipes list {closed}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_messages_in_other_terminal_encodings(drn, encoding):
    drn.cwd.joinpath("名\u202e.yaml").write_text("task: 名\n")
    done = in_shell(drn, f"PYTHONIOENCODING={encoding} drn recipes check *.yaml")
    assert done.returncode == 1
    assert "task: should be classification or segmentation, got " in done.stderr
    assert ("名" if "utf" in encoding else r"\u540d") in done.stderr
    assert "\u202e" not in done.stderr


HOSTILE = "e\x1b[31m\rl\x9b2J\u202e:smile:[bold]x[/y]"
SHOWN = r"e\x1b[31m\rl\x9b2J\u202e:smile:[bold]x[/y]"


@pytest.mark.parametrize(
    "words",
    [
        ["eval", HOSTILE],
        ["recipes", "show", f"{HOSTILE}.yaml"],
        ["train", "demo", f"train.lr={HOSTILE}"],
        [HOSTILE],
        ["models", HOSTILE],
        ["train", f"--{HOSTILE}"],
        ["eval", "--gpus", HOSTILE],
    ],
    ids=["run", "recipe", "override", "verb", "verb of a group", "option", "value"],
)
def test_control_characters_in_names_are_escaped(drn, words):
    done = drn(*words)
    assert done.returncode in (1, 2)
    shown = "".join(line.strip(" │") for line in done.stderr.splitlines())
    own = words[0] == "train" and len(words) == 2  # typer escapes options itself
    assert (SHOWN[-18:] if own else SHOWN) in shown.replace(" ", "")
    assert not set(done.stderr) & {"\x1b", "\r", "\x9b", "\u202e"}


def test_names_in_tables_and_json_are_complete(drn, tmp_path):
    folder = tmp_path / "runs" / f"a\n{HOSTILE.replace('/', '')}"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("no JSON\n")
    done = drn("runs")
    assert rf"a\n{SHOWN.replace('/', '')}" in done.stdout
    as_json = drn("runs", "--json")
    for text in (done.stdout, done.stderr, as_json.stdout):
        assert not set(text) & {"\x1b", "\r", "\x9b", "\u202e"}
    [run] = json.loads(as_json.stdout)
    assert folder.name in run["run"]


def test_a_user_without_home_and_name(drn):
    """As in a container with `--user 54321`."""
    as_no_one = ("unshare", "--user", "--map-user=54321")
    if not shutil.which("unshare") or subprocess.run([*as_no_one, "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    nothing = {"DRN_CACHE": "", "XDG_CACHE_HOME": "", "PATH": os.environ["PATH"]}

    def run(**variables):
        return subprocess.run(
            [*as_no_one, sys.executable, "-m", "drn_cli", "models", "fetch", "drn_d_22"],
            cwd=drn.cwd,
            env=nothing | {"PYTHONPATH": str(Path(drn_cli.__file__).parents[1])} | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run()
    assert (done.returncode, done.stderr) == (
        1,
        "error: ~/.cache/drn: unknown home folder ~ -> set DRN_CACHE to a folder for "
        "weights, or set HOME\n",
    )
    done = run(DRN_CACHE="/proc/nowhere")
    assert "error: /proc/nowhere/weights: cannot be written" in done.stderr


@pytest.mark.parametrize("rest", ["", ".", "./", "{cwd}"])
def test_imports_nothing_from_the_current_folder_unless_on_pythonpath(tmp_path, rest):
    (tmp_path / "typer.py").write_text("raise SystemExit('from the current folder')")
    tree = str(Path(drn_cli.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "drn_cli", "--version"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([tree, rest.format(cwd=tmp_path)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("from the current folder" in done.stderr) == (rest == "{cwd}"), done.stderr
    assert done.returncode == (rest == "{cwd}")
