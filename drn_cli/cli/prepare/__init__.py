"""`drn data prepare`: from a data set as it is distributed to a data folder, one module a verb."""

import typer

from drn_cli.cli.prepare import camvid, cityscapes, imagenet, pairs, scenes

app = typer.Typer(no_args_is_help=True, help="Make a data folder: lists, labels, info.json.")
app.command("cityscapes", epilog=cityscapes.EPILOG)(cityscapes.cityscapes)
app.command("camvid", epilog=camvid.EPILOG)(camvid.camvid)
app.command("imagenet", epilog=imagenet.EPILOG)(imagenet.imagenet)
app.command("pairs", epilog=pairs.EPILOG)(pairs.pairs)
app.command("scenes", epilog=scenes.EPILOG)(scenes.scenes)
