import sys

import pytest
import typer
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
    """List every command there is, groups opened up."""
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
    [["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], ["predict", "-h"]],
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
    if len(words) == 1:  # before a verb's options typer itself imports pydantic
        assert "pydantic" not in imported


def test_version(drn):
    done = drn("--version")
    assert (done.returncode, done.stdout) == (0, f"drn {drn_cli.__version__}\n")
    assert done.stderr == ""


def test_help_names_every_verb_and_where_to_start():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb in {path[0] for path in verbs()}:
        assert verb in result.stdout
    assert "Start here" in result.stdout


@pytest.mark.parametrize("path", [p for p in verbs() if p != ("demo",)], ids=" ".join)
def test_every_verb_has_examples(path):
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    examples = result.stdout.partition("Example")[2]
    assert f"drn {' '.join(path)}" in examples


@pytest.mark.parametrize(
    "words",
    [["nosuchverb"], ["train", "--no-such-option"], ["predict"], ["eval", "--gpus", "0"]],
    ids=" ".join,
)
def test_usage_errors_end_with_2(drn, words):
    done = drn(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_words_it_shows_the_help(drn):
    done = drn()
    assert "Usage: " in done.stdout + done.stderr
    assert "predict" in done.stdout + done.stderr


def test_a_users_mistake_ends_with_1_in_a_line(drn):
    done = drn("eval", "no [bold]such[/] file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no [bold]such[/] file: no such run folder or checkpoint file\n"


@pytest.mark.parametrize("words", [["--debug", "eval", "x"], ["eval", "x", "--debug"]], ids=str)
def test_debug_shows_the_traceback(drn, words):
    done = drn(*words)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "DrnError: x: no such run folder" in done.stderr


def test_debug_reaches_the_processes(drn, trained, data_folder, tmp_path):
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    done = drn("eval", "noise", "--data", data_folder, "--gpus", "2", "--debug")
    assert done.returncode == 1
    assert "in read_network" in done.stderr


def test_what_is_unexpected_is_told_in_a_line_too(drn):
    script = (
        "import sys; from drn_cli.cli import app, recipes; import drn_cli.recipe.loading as l\n"
        "def broken(*_): raise ZeroDivisionError('first line\\nsecond line')\n"
        "l.find_recipe = broken; sys.argv = ['drn', 'recipes', 'show', 'x']; app.main()"
    )
    done = type(drn)(drn.cwd, (sys.executable, "-c", script))()
    assert done.returncode == 1
    assert done.stderr == (
        "error: unexpected: ZeroDivisionError: first line -> run again with --debug to see where\n"
    )


@pytest.mark.parametrize("verb", ["recipes list", "recipes schema", "--help"])
def test_a_closed_pipe_is_quiet(drn, tmp_path, verb):
    """The reader is gone before the first word, which `| head` alone would leave to chance."""
    running = drn.begin(*verb.split())
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    stderr = running.stderr.read()
    assert running.wait(timeout=300) == 1
    running.stderr.close()
    assert stderr == ""
