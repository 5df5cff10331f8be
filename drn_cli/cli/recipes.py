"""`drn recipes`: list, show, copy and check recipes."""

from typing import Annotated, Any

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import RecipeCommand, complete_key, complete_recipe

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, copy and check recipes.",
    epilog="[bold]Examples[/]\n\n"
    "  drn recipes list\n\n"
    "  drn recipes copy drn_d_22_camvid mine.yaml\n\n"
    "  drn recipes check mine.yaml train.batch_size=4",
)

Recipe = Annotated[
    str,
    typer.Argument(
        help="Name of a shipped recipe, or a YAML file.", autocompletion=complete_recipe
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Override a key, such as train.lr=0.02.",
        autocompletion=complete_key,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: [bold]drn recipes list[/]")
def list_(json: Json = False) -> None:
    """List the shipped recipes. `drn recipes show` says what each is for."""
    from drn_cli.recipe.loading import load_recipe, read_text, shipped_recipes

    rows: list[dict[str, Any]] = []
    for name, file in shipped_recipes().items():
        recipe = load_recipe(name).recipe
        rows.append(
            {
                "name": name,
                "arch": recipe.model.arch,
                "width": recipe.model.width,
                "task": recipe.task,
                "crop": recipe.augment.crop,
                "classes": recipe.data.classes,
                "epochs": recipe.train.epochs,
                "batch_size": recipe.train.batch_size,
                "summary": read_text(file).partition("\n")[0].removeprefix("#").strip(),
            }
        )
    if json:
        console.emit_json(rows)
        return
    numbers = ("classes", "crop", "epochs", "batch")
    table = console.table("name", "task", *numbers, right=numbers)
    for row in rows:
        keys = ("name", "task", "classes", "crop", "epochs", "batch_size")
        table.add_row(*(str(row[key]) for key in keys))
    console.out.print(table)


@app.command(
    cls=RecipeCommand,
    epilog="Examples:\n\n"
    "  [bold]drn recipes show drn_d_22_camvid[/]                the file, with comments\n\n"
    "  [bold]drn recipes show drn_d_22_camvid train.lr=0.01[/]  all keys and values",
)
def show(
    recipe: Recipe,
    overrides: Overrides = None,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="Print all keys, including inherited ones and defaults."),
    ] = False,
    json: Json = False,
) -> None:
    """Print a recipe file, or with overrides, --resolved or --json all its keys."""
    from drn_cli.recipe.loading import find_recipe, load_recipe, read_text, resolved_yaml

    if json:
        console.emit_json(load_recipe(recipe, overrides or ()).recipe.model_dump(mode="json"))
    elif resolved or overrides:
        console.echo(resolved_yaml(load_recipe(recipe, overrides or ()).recipe), end="")
    else:
        console.echo(read_text(find_recipe(recipe)), end="")


@app.command(
    epilog="Examples:\n\n"
    "  [bold]drn recipes copy drn_d_22_camvid[/]          ./drn_d_22_camvid.yaml\n\n"
    "  [bold]drn recipes copy drn_d_22_camvid mine.yaml[/]"
)
def copy(
    name: Annotated[
        str, typer.Argument(help="Name of a shipped recipe.", autocompletion=complete_recipe)
    ],
    dest: Annotated[
        str | None, typer.Argument(help="File or folder to write to. Default: ./NAME.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite DEST.")] = False,
) -> None:
    """Copy a shipped recipe with its comments, to edit it."""
    from pathlib import Path

    from drn_cli.errors import DrnError
    from drn_cli.files import write_text
    from drn_cli.recipe.loading import read_text, shipped_recipe

    file = shipped_recipe(name)
    target = Path(dest or ".")
    if target.is_dir() or (dest or "").endswith("/"):
        target /= file.name
    if target.exists() and not force:
        raise DrnError(f"{target}: already exists", "use --force to overwrite")
    write_text(target, read_text(file))
    console.note(f"wrote {target}")


@app.command(
    cls=RecipeCommand,
    epilog="Examples:\n\n"
    "  [bold]drn recipes check mine.yaml[/]\n\n"
    "  [bold]drn recipes check drn_d_22_camvid train.batch_size=4[/]",
)
def check(recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Validate a recipe without running it; the exit code is 1 if it has errors."""
    from drn_cli.errors import DrnError
    from drn_cli.recipe.loading import load_recipe

    try:
        loaded = load_recipe(recipe, overrides or ())
    except DrnError as error:
        if not json:
            raise
        console.emit_json({"ok": False, "errors": str(error).splitlines()})
        raise typer.Exit(1) from error
    run = loaded.recipe
    if json:
        found = {"name": loaded.name, "path": loaded.path, "overrides": loaded.overrides}
        console.emit_json({"ok": True, **found, "recipe": run.model_dump(mode="json")})
        return
    start = f"starting from {run.model.weights}" if run.model.weights else "from scratch"
    facts = [
        f"{run.task} with {run.model.architecture.label}, {start}",
        f"{run.data.classes} classes in {run.data.root}",
        f"crop {run.augment.crop}",
        f"{run.train.epochs} epochs of batch {run.train.batch_size}",
        f"lr {run.train.lr:g} ({run.train.schedule.kind})",
    ]
    console.echo(f"ok: {loaded.name}: {'; '.join(facts)}")


@app.command(epilog="Example: [bold]drn recipes schema > recipe.schema.json[/]")
def schema() -> None:
    """Print the JSON Schema of recipes, for completion and checks in editors."""
    from drn_cli.recipe.reference import json_schema

    console.emit_json(json_schema())


@app.command(epilog="Example: [bold]drn recipes reference > recipes.md[/]")
def reference() -> None:
    """Print all recipe keys with values, default and meaning, as Markdown."""
    from drn_cli.recipe.reference import reference as describe

    console.echo(describe(), end="")
