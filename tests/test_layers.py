"""Who may know whom: each module imports from its own layer or a lower one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import drn_cli

PACKAGE = Path(drn_cli.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "formatting", "integrity", "interrupts", "replacing", "runs"),
    ("networks.catalog",),
    ("recipe", "data", "networks", "distributed"),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("api", "bench", "doctor", "export", "report"),
    ("cli",),
)
# Within a layer, a package knows itself alone; of a lower one it may know everything.
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
ENTRY = "__main__"
FACADE = "__init__"  # of drn_cli itself: gives names of the parts below when they are asked for

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """Name a module below the package: `training.loop`, `networks.__init__`."""
    return ".".join(path.with_suffix("").parts)


def unit(module: str) -> str:
    """Give the part of the package that a module belongs to."""
    return module if module in HEIGHT else module.partition(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """List what a file imports from this package, wherever in the file: line and module."""
    package = ("drn_cli", *path.parent.parts)
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [base]
            for alias in node.names:  # `from package import module`
                inner = [*base.split(".")[1:], alias.name]
                place = PACKAGE.joinpath(*inner)
                if base.startswith("drn_cli") and (
                    place.with_suffix(".py").is_file() or place.is_dir()
                ):
                    names = [name for name in names if name != base] + [f"{base}.{alias.name}"]
        for name in names:
            if name.startswith("drn_cli."):
                yield node.lineno, name.removeprefix("drn_cli.")


def allowed(importer: str, imported: str) -> bool:
    above, below = unit(importer), unit(imported)
    if above == ENTRY:
        return True
    if above == FACADE:
        return below in ("api", "errors", "networks", "recipe")
    if above == below or below not in HEIGHT:
        return above == below
    if below == "networks.catalog" and above in ("data", "distributed"):
        return False  # of their layer, recipe alone may, besides networks itself
    return HEIGHT[below] < HEIGHT[above] or HEIGHT[below] == HEIGHT[above] == 0


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_knows_only_its_own_layer_and_lower_ones(path):
    importer = dotted(path)
    assert unit(importer) in {*HEIGHT, ENTRY, FACADE}, f"{importer}: belongs to no layer"
    wrong = [
        f"{path}:{line}: {importer} imports {imported}"
        for line, imported in imports(path)
        if not allowed(importer, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_imports_are_seen():
    """The test above would be content with a parser that finds nothing."""
    found = {(dotted(path), name) for path in MODULES for _, name in imports(path)}
    assert ("recipe.schema", "networks.catalog") in found
    assert ("training.tasks", "evaluation.segmentation") in found
    assert ("cli.train", "distributed.launch") in found  # in a function
    assert ("cli.app", "cli.console") in found  # from package import module
    assert ("__main__", "cli.app") in found


@pytest.mark.parametrize(
    ("importer", "imported", "fine"),
    [
        ("recipe.schema", "networks.catalog", True),
        ("recipe.schema", "networks.models", False),
        ("data.folders", "networks.catalog", False),
        ("data.folders", "recipe.schema", False),
        ("networks.models", "networks.catalog", True),
        ("networks.catalog", "networks.models", False),
        ("inference.loading", "evaluation.confusion", False),
        ("evaluation.segmentation", "inference.predictor", True),
        ("training.loop", "cli.console", False),
        ("runs", "errors", True),
        ("runs", "recipe.loading", False),
    ],
)
def test_the_rule(importer, imported, fine):
    assert allowed(importer, imported) is fine
