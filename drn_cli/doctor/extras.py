"""What drn can use and does not need: which extras are installed, and whether they work."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from drn_cli.doctor.children import BUSY, Ending, python, run_together, too_slow
from drn_cli.doctor.distributions import version_of
from drn_cli.doctor.finding import Finding

TIMEOUT = 300.0  # seconds, to import them all at once, on a busy machine too


@dataclass(frozen=True, slots=True)
class Extra:
    """Optional packages that are installed together.

    Attributes:
        name: As in `pip install 'drn-cli[NAME]'`.
        purpose: What can be done with it.
        packages: Named alike for pip and for Python.
    """

    name: str
    purpose: str
    packages: tuple[str, ...]


EXTRAS = (
    Extra("imagenet", "ImageNet's own list of classes", ("scipy",)),
    Extra("tensorboard", "curves in TensorBoard", ("tensorboard",)),
    Extra("onnx", "ONNX files", ("onnx", "onnxscript", "onnxruntime")),
    Extra("openvino", "OpenVINO files", ("openvino",)),
    Extra("openvino-int8", "OpenVINO files in 8 bits", ("nncf",)),
)


def installed(extras: tuple[Extra, ...] = EXTRAS, timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Import what is installed, each extra in a process of its own."""
    missing = {extra.name: [p for p in extra.packages if find_spec(p) is None] for extra in extras}
    there = [extra for extra in extras if not missing[extra.name]]
    commands = [python("-c", f"import {', '.join(extra.packages)}") for extra in there]
    endings = dict(zip(there, run_together(commands, timeout), strict=True))
    for extra in extras:
        yield _finding(extra, missing[extra.name], endings.get(extra), timeout)


def _finding(extra: Extra, missing: list[str], ending: Ending | None, timeout: float) -> Finding:
    name = f"extra {extra.name}"
    command = f"pip install 'drn-cli[{extra.name}]'"
    if ending is None:
        without = "" if len(missing) == len(extra.packages) else f" ({', '.join(missing)})"
        return Finding(name, "ok", f"not installed{without}: {command}, for {extra.purpose}")
    if ending.code is None:
        packages = " or ".join(extra.packages)
        return Finding(name, "warning", too_slow(packages, timeout), BUSY)
    if ending.code != 0:
        return Finding(
            name,
            "warning",
            f"installed, but cannot be imported: {ending.last_line}",
            f"pip install --force-reinstall {' '.join(extra.packages)}",
        )
    found = ", ".join(f"{package} {version_of(package)}" for package in extra.packages)
    return Finding(name, "ok", f"{found}, for {extra.purpose}")
