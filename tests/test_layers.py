"""Module dependencies: no imports of higher layers, and no circular imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import drn_cli

PACKAGE = Path(drn_cli.__file__).parent

# From top to bottom. A name with a dot is a module in another layer than its package.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("api",),
    ("doctor", "bench", "report"),
    ("export",),
    ("training",),
    ("evaluation",),
    ("inference",),
    ("data",),
    ("networks",),
    ("recipe", "distributed"),
    ("networks.catalog",),
    (
        *("errors", "files", "formatting", "device", "environment", "runs"),
        *("integrity", "interrupts", "replacing", "version"),
    ),
)
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
FOUNDATION = len(LAYERS) - 1  # the only layer with imports within
# Outside of the layers: the entry point, and the public names of `import drn_cli`.
ENTRY, FACADE = "__main__", "__init__"

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """Name of a module within the package: `training.loop`, `networks.__init__`."""
    return ".".join(path.with_suffix("").parts)


def unit(module: str) -> str:
    """Return the entry of `LAYERS` that a module belongs to."""
    return module if module in DEPTH else module.partition(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module of all imports from this package, also those in functions."""
    package = ("drn_cli", *path.parent.parts)
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:  # `from package import module`
                inner = PACKAGE.joinpath(*base.split(".")[1:], alias.name)
                is_module = inner.with_suffix(".py").is_file() or inner.is_dir()
                names.append(f"{base}.{alias.name}" if is_module else base)
        for name in names:
            if name == "drn_cli":
                yield node.lineno, FACADE
            elif name.startswith("drn_cli."):
                yield node.lineno, name.removeprefix("drn_cli.")


def allowed(importer: str, imported: str) -> bool:
    above, below = unit(importer), unit(imported)
    if above == ENTRY:
        return True
    if above == FACADE:
        return below in ("api", "errors", "networks", "recipe", "version")
    if above not in DEPTH or below not in DEPTH:
        return False
    if below == "networks.catalog" and above in ("data", "distributed"):
        return False  # data and distributed do not depend on architectures
    if above == below or DEPTH[above] == DEPTH[below] == FOUNDATION:
        return True
    return DEPTH[above] < DEPTH[below]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_come_from_the_same_or_a_lower_layer(path):
    importer = dotted(path)
    assert unit(importer) in {*DEPTH, ENTRY, FACADE}, f"{importer}: belongs to no layer"
    wrong = [
        f"{path}:{line}: {importer} imports {imported}"
        for line, imported in imports(path)
        if not allowed(importer, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circular_imports():
    """Including imports for type checkers and in functions."""
    graph = {
        dotted(path).removesuffix(".__init__"): {
            name.removesuffix(".__init__") for _, name in imports(path)
        }
        for path in MODULES
        if dotted(path) not in (ENTRY, FACADE)
    }
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for imported in sorted(graph.get(module, ())):
                visit(imported, (*path, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_parser_finds_imports():
    """The tests above would pass if it found none."""
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
        ("recipe.schema", "distributed.group", False),
        ("data.folders", "networks.catalog", False),
        ("networks.models", "networks.catalog", True),
        ("networks.catalog", "networks.models", False),
        ("networks.models", "data.images", False),
        ("inference.loading", "evaluation.confusion", False),
        ("evaluation.segmentation", "inference.predictor", True),
        ("training.loop", "cli.console", False),
        ("export.onnx", "__init__", False),
        ("api", "report.page", True),
        ("runs", "errors", True),
        ("runs", "recipe.loading", False),
    ],
)
def test_the_rule(importer, imported, fine):
    assert allowed(importer, imported) is fine
