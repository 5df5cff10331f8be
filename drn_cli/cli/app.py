"""The command `drn`: its verbs, its global options and how a failure ends."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from drn_cli import __version__
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
from drn_cli.errors import DrnError, FaultError, limit_reached


class _Verbs(TyperGroup):
    """The verbs, and what is said when Ctrl-C ends one that has nothing of its own to say."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.note("interrupted")
            raise typer.Exit(console.INTERRUPTED) from None


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
    "  drn demo          everything once, on pictures it draws itself\n\n"
    "  drn doctor        is this machine fit for it?\n\n"
    "  drn data prepare camvid SRC --out data/camvid\n\n"
    "  drn train drn_d_22_camvid data.root=data/camvid\n\n"
    "  drn eval          the newest run, on its validation pictures\n\n"
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
app.command("train", epilog=train.EPILOG)(train.train)
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
app.command("demo", epilog=demo.EPILOG)(demo.demo)


def main() -> None:
    """Run `drn` and exit: 0 done, 1 the user's mistake, 2 usage, 130 interrupted."""
    debug = "--debug" in sys.argv or bool(os.environ.get("DRN_DEBUG"))
    if debug:
        os.environ["DRN_DEBUG"] = "1"  # for the processes that torchrun starts
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
    console.show_logs()
    try:
        app(prog_name="drn")
    except DrnError as error:
        if debug:
            raise
        _tell(error)
        _end_the_job(error)
        sys.exit(1)
    except BrokenPipeError:
        # `drn ... | head` closed the pipe: there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        unexpected = DrnError(f"unexpected: {text}", "run again with --debug to see where")
        _tell(limit_reached(error) or unexpected)
        sys.exit(1)


def _end_the_job(error: DrnError) -> None:
    """Keep a launcher from starting processes again that would make the same mistake."""
    if "RANK" in os.environ and not isinstance(error, FaultError):
        from drn_cli.distributed.launch import give_up

        give_up(1)


def _tell(error: DrnError) -> None:
    """Print an error; of a job's processes, the first that fails does."""
    if "RANK" in os.environ:
        from drn_cli.distributed.group import first_to_fail

        if not first_to_fail():
            return
    try:
        console.fail(error)
    except MemoryError:  # which is most likely what the error is about
        os.write(2, f"error: {error}\n".encode(errors="backslashreplace"))
