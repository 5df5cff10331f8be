"""Options of the verbs that run in several processes: how many, and on which machines."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.errors import started_by_torchrun

if TYPE_CHECKING:
    from drn_cli.distributed.launch import LaunchOptions

PANEL = "Several machines, and failures"


def _gpus(text: str | int) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        number = int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: a number, or auto") from error
    if number < 1:
        raise typer.BadParameter(f"{text!r}: at least 1")
    return number


Gpus = Annotated[
    Any,  # int | "auto"
    typer.Option(
        parser=_gpus,
        metavar="N|auto",
        help="Processes on this machine: one to a GPU, or CPU processes; auto: all GPUs there are.",
    ),
]
Nodes = Annotated[
    str | None,
    typer.Option(
        "--nnodes",
        metavar="N|MIN:MAX",
        help="Machines; each runs this same command.",
        rich_help_panel=PANEL,
    ),
]
NodeRank = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of this machine, 0 being that of --rdzv-endpoint; by default as they meet.",
        rich_help_panel=PANEL,
    ),
]
RdzvEndpoint = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where the machines meet: one of them, and a free port there.",
        rich_help_panel=PANEL,
    ),
]
RdzvId = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the job, the same on all machines and of its own for each job.",
        rich_help_panel=PANEL,
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option(
        min=0, help="Start all again, so often, when a process fails.", rich_help_panel=PANEL
    ),
]
MasterPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port for the processes of a single machine; by default a free one.",
        rich_help_panel=PANEL,
    ),
]


def launch_options(
    gpus: int | Literal["auto"] = 1,
    nnodes: str | None = None,
    node_rank: int | None = None,
    rdzv_endpoint: str | None = None,
    rdzv_id: str | None = None,
    max_restarts: int = 0,
    master_port: int | None = None,
) -> "LaunchOptions":
    """Gather the options of a verb.

    Raises:
        DrnError: They do not go together.
    """
    from drn_cli.distributed.launch import LaunchOptions

    return LaunchOptions(gpus, nnodes, node_rank, rdzv_endpoint, rdzv_id, max_restarts, master_port)


def should_launch(options: "LaunchOptions") -> bool:
    """Tell whether this process has to start others, and is not one of them itself.

    A task of an `srun` with several, where nothing else is asked for, is one of them from here
    on: it says its errors as one of many.
    """
    from drn_cli.distributed.cluster import init_from_slurm

    if started_by_torchrun():
        return False
    if options.needs_launcher:
        return True
    init_from_slurm()
    return False
