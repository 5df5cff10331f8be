"""Options of the verbs that run in several processes, on one node or several."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.errors import started_by_torchrun

if TYPE_CHECKING:
    from drn_cli.distributed.launch import LaunchOptions

PANEL = "Multi-node and fault tolerance"


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
        help="Number of processes on this node, one per GPU (or CPU processes). auto: one per "
        "visible GPU.",
    ),
]
Nodes = Annotated[
    str | None,
    typer.Option(
        "--nnodes",
        metavar="N|MIN:MAX",
        help="Number of nodes, or MIN:MAX for elastic training. Run the same command on each.",
        rich_help_panel=PANEL,
    ),
]
NodeRank = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Rank of this node; 0 is the rendezvous host. Default: assigned at rendezvous.",
        rich_help_panel=PANEL,
    ),
]
RdzvEndpoint = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address where the nodes rendezvous: host name of one of them and a free port.",
        rich_help_panel=PANEL,
    ),
]
RdzvId = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Unique job id, identical on all nodes.", rich_help_panel=PANEL
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option(
        min=0, help="Restart all processes up to N times after a failure.", rich_help_panel=PANEL
    ),
]
MasterPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port for the processes of a single node. Default: a free port.",
        rich_help_panel=PANEL,
    ),
]


def should_launch(options: "LaunchOptions") -> bool:
    """Whether this process has to start the worker processes, and is not a worker itself.

    A task of an `srun` step with several tasks becomes a worker here, unless options ask for
    processes: from now on it reports errors as one of many.
    """
    from drn_cli.distributed.cluster import init_from_slurm

    if started_by_torchrun():
        return False
    if options.needs_launcher:
        return True
    init_from_slurm()
    return False
