"""The command `drn`: verbs, global options, exit codes and error reporting."""

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
    """The verbs, with exit codes and messages for interruptions and errors of the system."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _exit_codes():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _exit_codes():
            return super().invoke(ctx)


@contextmanager
def _exit_codes() -> Iterator[None]:
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
        message = error.message.removeprefix("Value error, ")  # of pydantic, in typer
        error.message = visible(message, one_line=True)
        raise
    except OSError as error:
        if error.errno == errno.EPIPE and _output_pipe_closed():
            raise typer.Exit(console.PIPE_CLOSED) from None
        # Not raised unchanged: typer treats every EPIPE, also of a worker's pipe, as stdout's.
        raise explained(error, _stream_of(error)) from error


app = typer.Typer(
    name="drn",
    cls=_Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"drn {__version__}")
        raise typer.Exit


@app.callback(
    epilog="[bold]Start here[/]\n\n"
    "  drn demo          all steps once, on synthetic images\n\n"
    "  drn doctor        check this machine\n\n"
    "  drn data prepare camvid SRC --out data/camvid\n\n"
    "  drn train drn_d_22_camvid data.root=data/camvid\n\n"
    "  drn eval          score the newest run on its validation images\n\n"
    "  drn predict street.jpg --out predictions\n\n"
    "  drn export        export the newest run to ONNX\n\n"
    "Examples of each command: [bold]drn COMMAND --help[/]"
)
def _drn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; also accepted after a command.")
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

    Exit codes: 0 success, 1 error, 2 usage error, 130 interrupted, 141 output pipe closed.
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
        # A panic in the Rust part of safetensors, as when out of memory, is no Exception.
        reported = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if debug or not reported:
            raise
        _report(explained(error))
        mistake = isinstance(error, DrnError) and not isinstance(error, FaultError)
        if mistake and started_by_torchrun():  # no restart: it would fail in the same way
            from drn_cli.distributed.launch import report_exit_code

            report_exit_code(1)
        code = 1
    sys.exit(_flushed(code))


def _open_streams() -> None:
    """Open closed standard streams, and make stdout and stderr accept any text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, as by `>&-`: the next opened file would get this number
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")


def _output_pipe_closed() -> bool:
    """Whether stdout or stderr is a pipe whose reader has exited, as after `| head -1`."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return bool(poll.poll(0))


def _stream_of(error: OSError) -> str | None:
    """Return "stdout" if an error, such as a full disk, was raised by printing."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    writer = innermost.f_globals.get("__name__", "").partition(".")[0]
    printing = innermost.f_globals is vars(console) or writer in ("rich", "typer", "click")
    return "stdout" if printing else None


def _flushed(code: int | str | None) -> int | str | None:
    """Flush stdout; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE and code != 1:
            console.fail(explained(error, "stdout"))
        code = console.PIPE_CLOSED if error.errno == errno.EPIPE else 1
        # Drop what cannot be written, or Python would try again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def _report(error: DrnError) -> None:
    """Print an error; in a distributed job, only the first process that fails prints."""
    if started_by_torchrun():
        from drn_cli.distributed.group import register_failure

        if not register_failure():
            return
    try:
        console.fail(error)
    except MemoryError:  # most likely the cause of the error
        os.write(2, f"error: {error}\n".encode(errors="backslashreplace"))
