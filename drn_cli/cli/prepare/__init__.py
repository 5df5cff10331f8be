"""`drn data prepare`: make a data folder from a data set as distributed, one module per verb."""

import typer

from drn_cli.cli.prepare import camvid, cityscapes, imagenet, pairs, scenes

app = typer.Typer(
    no_args_is_help=True,
    help="Make a data folder: lists, labels, info.json.",
    epilog="[bold]Examples[/]\n\n"
    "  drn data prepare camvid downloads/CamVid --out data/camvid\n\n"
    "  drn data prepare pairs --images photos --labels masks --out data/mine",
)
app.command("cityscapes", epilog=cityscapes.EPILOG)(cityscapes.cityscapes)
app.command("camvid", epilog=camvid.EPILOG)(camvid.camvid)
app.command("imagenet", epilog=imagenet.EPILOG)(imagenet.imagenet)
app.command("pairs", epilog=pairs.EPILOG)(pairs.pairs)
app.command("scenes", epilog=scenes.EPILOG)(scenes.scenes)
