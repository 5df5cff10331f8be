"""Metadata of weights, checkpoints and exports: one schema for every format, read or written.

Metadata is strings by name, because that is all that safetensors and ONNX hold. Lists and numbers
are JSON in such a string. Keys that are not listed here belong to others and are left alone.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, model_validator

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import ARCHITECTURES, MAX_WIDTH, Task

LONGEST = 64 << 20  # characters of a value; the longest of ours, provenance, has some thousand
OURS = "drn"  # the value of `format` in files that drn wrote
SHOWN = 60  # characters of a value in a message
# Other programs keep strings of these names with other meanings at the top of their checkpoints,
# also such as fit by chance. All files that drn wrote say so, but older exports, which it knows
# by their formats. A mean and a std of others that fit both are what everybody means by them.
AMBIGUOUS = {
    *("width", "classes", "class_names", "class_folders", "colours", "crop", "resize", "size"),
    *("input", "outputs", "provenance", "mean_std_guess"),
}

# Of pixels in 0..1, the same ranges as in data.folders. In float32, dividing by a smaller deviation
# would give infinities.
_Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1, allow_inf_nan=False, strict=True)]
_Width = Annotated[float, Field(gt=0, le=MAX_WIDTH, allow_inf_nan=False, strict=True)]
_Byte = Annotated[int, Field(ge=0, le=255, strict=True)]
_Names = Annotated[list[Annotated[str, Field(strict=True)]], Field(min_length=1)]
_Count = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}$")]
_Side = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}$")]
_Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")]
_Outputs = Annotated[str, Field(pattern=r"^(logits|scores|classes)(,(logits|scores|classes))*$")]


class _Metadata(BaseModel):
    """The keys that `drn` reads, each of them optional, with what messages say is expected."""

    model_config = ConfigDict(extra="ignore")

    classes: _Count | None = Field(None, description="a number from 1 to 999999")
    width: Json[_Width] | None = Field(
        None, description=f"a number above 0 and up to {MAX_WIDTH:g}"
    )
    mean: Json[tuple[_Mean, _Mean, _Mean]] | None = Field(
        None, description="three finite numbers in 0..1 as JSON"
    )
    std: Json[tuple[_Deviation, _Deviation, _Deviation]] | None = Field(
        None, description="three finite numbers above 0 and up to 1 as JSON"
    )
    class_names: Json[_Names] | None = Field(None, description="a list of strings as JSON")
    class_folders: Json[_Names] | None = Field(None, description="a list of strings as JSON")
    colours: Json[list[tuple[_Byte, _Byte, _Byte]]] | None = Field(
        None, description="a list of [r, g, b] in 0..255 as JSON"
    )
    crop: _Side | None = Field(None, description="a number of pixels from 1 to 9999")
    resize: _Side | None = Field(None, description="a number of pixels from 1 to 9999")
    size: _Size | None = Field(None, description="HEIGHTxWIDTH in pixels")
    input: Literal["uint8", "normalised"] | None = Field(
        None, description="'uint8' or 'normalised'"
    )
    outputs: _Outputs | None = Field(None, description="a list of logits, scores, classes")
    provenance: Json[dict[str, Any]] | None = Field(None, description="an object as JSON")

    @model_validator(mode="after")
    def _fits_together(self) -> "_Metadata":
        if (self.mean is None) != (self.std is None):
            given, other = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{given} is given without {other}")
        lists = {"class_names": self.class_names, "class_folders": self.class_folders}
        counts = {key: len(value) for key, value in lists.items() if value is not None}
        if self.colours is not None:
            counts["colours"] = len(self.colours)
        if self.classes is not None:
            counts["classes"] = int(self.classes)
        if len(set(counts.values())) > 1:
            described = ", ".join(f"{count} in {key}" for key, count in counts.items())
            raise ValueError(f"different numbers of classes: {described}")
        return self


def check_metadata(
    strings: Mapping[str, str], path: Path, *, ours: bool = False, writing: bool = False
) -> dict[str, str]:
    """Validate metadata that was read from a file, or is about to be written to one.

    Args:
        strings: All of the file's strings, those of others among them.
        path: The file, for messages.
        ours: Whether `drn` wrote the file, also where `format` does not say so.
        writing: Whether they are about to be written.

    Returns:
        The same strings, without those that may mean something else in the files of others.

    Raises:
        DrnError: A value that `drn` reads is not what it must be, or a string is not valid Unicode.
    """
    ours = ours or strings.get("format") == OURS
    wrong = partial(_wrong, path, writing)
    for key, value in strings.items():
        if len(value) > LONGEST:
            raise wrong(key, f"{len(value):,} characters")
        try:
            f"{key}{value}".encode()
        except UnicodeEncodeError as error:
            raise wrong(ascii(key), "not valid Unicode") from error
    foreign = not (ours or writing)
    if foreign:
        strings = {key: value for key, value in strings.items() if key not in AMBIGUOUS}
    try:
        _Metadata.model_validate(strings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if foreign:
            return {k: text for k, text in strings.items() if k not in ("mean", "std")}
        raise wrong(key, _problem(key, strings.get(key), first["msg"])) from error
    if ours:
        _check_own(strings, path, wrong)
    return dict(strings)


def _check_own(
    strings: Mapping[str, str], path: Path, wrong: Callable[[str, str], DrnError]
) -> None:
    """Check the keys that files of others may hold with another meaning."""
    for key in ("arch", "task", "classes"):
        if key not in strings:
            raise wrong(key, "is missing")
    if strings["task"] not in get_args(Task):
        raise wrong(
            "task", f"expected {' or '.join(get_args(Task))}, not {_shown(strings['task'])}"
        )
    if strings["arch"] not in ARCHITECTURES:
        raise DrnError(
            f"{path}: holds an architecture that this drn does not know: {_shown(strings['arch'])}",
            "a newer drn may",
        )


def _problem(key: str, value: str | None, message: str) -> str:
    if value is None:  # what concerns several keys
        return message.removeprefix("Value error, ")
    return f"expected {_Metadata.model_fields[key].description}, not {_shown(value)}"


def _shown(value: str) -> str:
    return ascii(value if len(value) <= SHOWN else f"{value[:SHOWN]}...")


def _wrong(path: Path, writing: bool, key: str, problem: str) -> DrnError:
    return DrnError(
        f"{f'{path}: metadata {key}'.rstrip()}: {problem}",
        "not written: correct info.json of the data folder, or the file that it comes from"
        if writing
        else "the file was changed or badly written: make it or copy it again",
    )
