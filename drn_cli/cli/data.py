"""`drn data`: prepare data sets, look at them, and decode them ahead."""

import typer

from drn_cli.cli import data_cache, data_check, data_show, data_submission, prepare

app = typer.Typer(no_args_is_help=True, help="Prepare data sets, check and show them.")
app.add_typer(prepare.app, name="prepare")
app.command("check", epilog=data_check.EPILOG)(data_check.check)
app.command("show", epilog=data_show.EPILOG)(data_show.show)
app.command("check-submission", epilog=data_submission.EPILOG)(data_submission.check_submission)
app.command("cache", epilog=data_cache.EPILOG)(data_cache.cache)
