"""The command `drn`: its verbs, its global options and how a failure ends."""

import errno
import io
import os
import select
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from drn_cli.cli import (
    bench,
    console,
    data,
    demo,
    doctor,
    evaluate,
    export,
    localize,
    models,
    predict,
    recipes,
    report,
    runs,
    train,
)
from drn_cli.cli.completion import RecipeCommand, UsageError
from drn_cli.errors import DrnError, FaultError, explained, started_by_torchrun
from drn_cli.formatting import visible
from drn_cli.version import __version__


class _Verbs(TyperGroup):
    """The verbs, and how one ends that has nothing of its own to say about what stopped it."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _ending():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _ending():
            return super().invoke(ctx)


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.note("interrupted")
        raise typer.Exit(console.INTERRUPTED) from None
    except SystemExit as end:  # from rich, where typer prints help
        if isinstance(end.__context__, BrokenPipeError):
            raise typer.Exit(console.PIPE_CLOSED) from None
        raise
    except UsageError as error:
        error.message = visible(error.message, one_line=True)
        raise
    except OSError as error:
        if error.errno == errno.EPIPE and _reader_left():
            raise typer.Exit(console.PIPE_CLOSED) from None
        # Not as it is: typer takes any broken pipe, one to a worker too, for that of stdout.
        raise explained(error, _stream_of(error)) from error


app = typer.Typer(
    name="drn",
    cls=_Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"drn {__version__}")
        raise typer.Exit


@app.callback(
    epilog="[bold]Start here[/]\n\n"
    "  drn demo          everything once, on images it draws itself\n\n"
    "  drn doctor        is this machine fit for it?\n\n"
    "  drn data prepare camvid SRC --out data/camvid\n\n"
    "  drn train drn_d_22_camvid data.root=data/camvid\n\n"
    "  drn eval          the newest run, on its validation images\n\n"
    "  drn predict street.jpg --out predictions\n\n"
    "  drn export        the newest run, for ONNX Runtime\n\n"
    "Each verb has examples of its own: [bold]drn VERB --help[/]"
)
def _drn(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show tracebacks; works after a verb too."),
    ] = False,
) -> None:
    """Dilated Residual Networks: prepare data, train, evaluate, predict and export."""


app.add_typer(data.app, name="data")
app.command("train", cls=RecipeCommand, epilog=train.EPILOG)(train.train)
app.command("eval", epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command("predict", epilog=predict.EPILOG)(predict.predict)
app.command("localize", epilog=localize.EPILOG)(localize.localize)
app.command("export", epilog=export.EPILOG)(export.export)
app.command("report", epilog=report.EPILOG)(report.report)
app.command("runs", epilog=runs.EPILOG)(runs.runs)
app.add_typer(models.app, name="models")
app.add_typer(recipes.app, name="recipes")
app.command("bench", epilog=bench.EPILOG)(bench.bench)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
app.command("demo", cls=RecipeCommand, epilog=demo.EPILOG)(demo.demo)


def main() -> None:
    """Run `drn` and exit.

    0 done, 1 the user's mistake, 2 usage, 130 interrupted, 141 the reader of a pipe left.
    """
    _open_streams()
    debug = "--debug" in sys.argv or bool(os.environ.get("DRN_DEBUG"))
    if debug:
        os.environ["DRN_DEBUG"] = "1"  # for the processes that torchrun starts
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
    console.show_logs()
    try:
        app(prog_name="drn")
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        # What the Rust part of safetensors raises, as without memory, is no Exception.
        ours = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if debug or not ours:
            raise
        _tell(explained(error))
        if isinstance(error, DrnError):
            _end_the_job(error)
        code = 1
    sys.exit(_flushed(code))


def _open_streams() -> None:
    """Let every stream take any text, and let none be missing."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, as by `>&-`: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")


def _reader_left() -> bool:
    """Whether stdout or stderr is a pipe that no one reads any more, as after `| head -1`."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return bool(poll.poll(0))


def _stream_of(error: OSError) -> str | None:
    """Name stdout if an error, such as that of a full disk, comes from what prints to it."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    writer = innermost.f_globals.get("__name__", "").partition(".")[0]
    printing = innermost.f_globals is vars(console) or writer in ("rich", "typer", "click")
    return "stdout" if printing else None


def _flushed(code: int | str | None) -> int | str | None:
    """Write out what stdout still holds; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE and code != 1:
            console.fail(explained(error, "stdout"))
        code = console.PIPE_CLOSED if error.errno == errno.EPIPE else 1
        # What cannot be written is dropped, or Python would try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def _end_the_job(error: DrnError) -> None:
    """Keep a launcher from starting processes again that would make the same mistake."""
    if started_by_torchrun() and not isinstance(error, FaultError):
        from drn_cli.distributed.launch import report_exit_code

        report_exit_code(1)


def _tell(error: DrnError) -> None:
    """Print an error; of a job's processes, the first that fails does."""
    if started_by_torchrun():
        from drn_cli.distributed.group import is_first_failure

        if not is_first_failure():
            return
    try:
        console.fail(error)
    except MemoryError:  # which is most likely what the error is about
        os.write(2, f"error: {error}\n".encode(errors="backslashreplace"))
