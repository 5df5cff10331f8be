"""The wheel works without a checkout: its files, and the demo."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def drn(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new environment that uses the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # Paths in a .pth file are searched, but .pth files in these folders are not read: an editable
    # install of the checkout is not found.
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "drn"


def run(drn: Path, *arguments: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(drn), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_recipes_tables_and_the_type_marker(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {path.name for path in (CHECKOUT / "recipes").glob("*.yaml")}
    assert {f"drn_cli/recipes/{name}" for name in shipped} <= set(names)
    assert "drn_cli/data/tables/cityscapes_labels.csv" in names
    assert "drn_cli/data/tables/street.yaml" in names
    assert "drn_cli/py.typed" in names
    templates = list((CHECKOUT / "drn_cli" / "report" / "templates").iterdir())
    assert templates
    assert {f"drn_cli/report/templates/{path.name}" for path in templates} <= set(names)


def test_recipes_are_listed_from_the_wheel(drn: Path, tmp_path: Path) -> None:
    listed = run(drn, "recipes", "list", cwd=tmp_path)
    assert "drn_d_105_cityscapes" in listed
    where = "import drn_cli; print(drn_cli.__file__)"
    python = drn.parent / "python"
    home = subprocess.run(
        [str(python), "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert Path(home).is_relative_to(drn.parents[1]), "the checkout was imported, not the wheel"


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(drn: Path, tmp_path: Path) -> None:
    said = run(drn, "demo", "train.epochs=1", "augment.crop=32", cwd=tmp_path)
    assert "overview.png" in said
    made = tmp_path / "drn-demo"
    assert (made / "overview.png").is_file()
    assert len(list((made / "predictions" / "overlay").rglob("*.png"))) == 12
    assert len(list(made.glob("runs/demo/*/checkpoints/best.safetensors"))) == 1
