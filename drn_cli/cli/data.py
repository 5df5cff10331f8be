"""`drn data`: prepare, check, show and cache data folders."""

import typer

from drn_cli.cli import data_cache, data_check, data_show, data_submission, prepare

app = typer.Typer(
    no_args_is_help=True,
    help="Prepare, check, show and cache data folders.",
    epilog="[bold]Examples[/]\n\n"
    "  drn data prepare camvid downloads/CamVid --out data/camvid\n\n"
    "  drn data check data/camvid\n\n"
    "  drn data show data/camvid --recipe drn_d_22_camvid",
)
app.add_typer(prepare.app, name="prepare")
app.command("check", epilog=data_check.EPILOG)(data_check.check)
app.command("show", epilog=data_show.EPILOG)(data_show.show)
app.command("check-submission", epilog=data_submission.EPILOG)(data_submission.check_submission)
app.command("cache", epilog=data_cache.EPILOG)(data_cache.cache)
