"""Metadata of weights, checkpoints and exports: one schema for all formats, read or written.

Metadata are strings by key, as safetensors and ONNX support nothing else; lists and numbers are
encoded as JSON. Keys that are not in the schema belong to other programs and are not validated.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, model_validator

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import ARCHITECTURES, MAX_WIDTH, Task

LONGEST = 64 << 20  # characters of a value; our longest, provenance, has a few thousand
OURS = "drn"  # the value of `format` in files that drn wrote
SHOWN = 60  # characters of a value in a message
# Keys that other programs use at the top of their checkpoints with other meanings, even with values
# that are valid by chance. They are only read from files that drn wrote, which state so (`format`;
# older exports are recognized by theirs). A valid pair of mean and std has the same meaning in all.
AMBIGUOUS = {
    *("width", "classes", "class_names", "class_folders", "colours", "crop", "resize", "size"),
    *("input", "outputs", "provenance", "mean_std_guess"),
}

# Of pixels in 0..1, with the ranges of data.folders. Dividing by a smaller deviation would overflow
# float32.
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
    """The keys that `drn` reads, all of them optional; descriptions are used in messages."""

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
            stated, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{stated} without {missing}")
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
    """Validate metadata that were read from a file, or are about to be written to one.

    Args:
        strings: All metadata of the file, including those of other programs.
        path: The file, for messages.
        ours: Whether `drn` wrote the file, although `format` does not state it.
        writing: Whether the metadata are about to be written.

    Returns:
        The metadata, without keys that may have another meaning in files of other programs.

    Raises:
        DrnError: A value is invalid, a key that our files have is missing, or a string is not valid
            Unicode.
    """
    ours = ours or strings.get("format") == OURS

    def invalid(key: str, problem: str) -> DrnError:
        subject = f"{path}: metadata {key}".rstrip()
        hint = "the file was edited or written incorrectly: create or copy it again"
        if writing:
            hint = "nothing was written: correct info.json of the data folder, or the source file"
        return DrnError(f"{subject}: {problem}", hint)

    for key, value in strings.items():
        if len(value) > LONGEST:
            raise invalid(key, f"{len(value):,} characters")
        try:
            f"{key}{value}".encode()
        except UnicodeEncodeError as error:
            raise invalid(ascii(key), "not valid Unicode") from error
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
        if key in strings:
            expected = _Metadata.model_fields[key].description
            raise invalid(key, f"expected {expected}, not {_shown(strings[key])}") from error
        raise invalid(key, first["msg"].removeprefix("Value error, ")) from error
    if ours:
        _check_own(strings, path, invalid)
    return dict(strings)


def _check_own(
    strings: Mapping[str, str], path: Path, invalid: Callable[[str, str], DrnError]
) -> None:
    """Check the keys that every file of ours has."""
    for key in ("arch", "task", "classes"):
        if key not in strings:
            raise invalid(key, "is missing")
    if strings["task"] not in get_args(Task):
        raise invalid(
            "task", f"expected {' or '.join(get_args(Task))}, not {_shown(strings['task'])}"
        )
    if strings["arch"] not in ARCHITECTURES:
        raise DrnError(
            f"{path}: unknown architecture {_shown(strings['arch'])}", "written by a newer drn?"
        )


def _shown(value: str) -> str:
    return ascii(value if len(value) <= SHOWN else f"{value[:SHOWN]}...")
