"""The fields of a recipe: their types, limits, units and meaning."""

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Task, architecture


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes and on as true, which pydantic would take for the number 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (
            int,
            float,
        ):
            raise ValueError("should be a number")
        return value


class Model(Section):
    """Which network, and what it starts from."""

    arch: str = Field(description="Architecture, such as drn_d_22; `drn models list` names all.")
    weights: str | None = Field(
        None, description="imagenet, a checkpoint file, or null to start from scratch."
    )

    @field_validator("arch")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return architecture(name).name
        except DrnError as error:
            raise ValueError(str(error)) from error


class Data(Section):
    """Which pictures, and how they are read."""

    root: str = Field(description="Folder that the paths in the lists start from.")
    lists: str | None = Field(
        None, description="Folder of the lists and info.json, when it is not the root."
    )
    classes: int = Field(ge=1, le=100_000, description="Number of classes.")
    workers: int | Literal["auto"] = Field(
        "auto", description="Reading processes for each training process; 0 reads in place."
    )
    start_method: Literal["fork", "spawn", "forkserver"] = Field(
        "fork", description="How reading processes start; spawn is slow but shares nothing."
    )
    cache: Literal["none", "disk", "memory"] = Field(
        "none",
        description="Where decoded training pictures and labels are kept: disk is "
        "data.cache_folder, memory is /dev/shm, shared by the processes of a machine.",
    )
    cache_folder: str | None = Field(
        None, description="Folder of the disk cache; by default drn-cache, beside the lists."
    )

    @field_validator("workers")
    @classmethod
    def _not_negative(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 0:
            raise ValueError("should be 0 or more, or auto")
        return workers


class Augment(Section):
    """What is drawn anew for each training sample."""

    crop: int = Field(ge=1, description="Side of the square training crop, in pixels.")
    scale: float = Field(
        1.0, ge=1, description="Resize by a ratio drawn from [1/scale, scale]; 1 is off."
    )
    rotate: int = Field(
        0, ge=0, le=180, description="Rotate by an angle drawn from [-rotate, rotate], in degrees."
    )
    flip: bool = Field(True, description="Mirror left to right with probability one half.")


class Schedule(Section):
    """How the learning rate falls."""

    kind: Literal["step", "poly", "constant"] = Field(
        "step", description="step: divided by 10 now and then; poly: (1 - progress) ** power."
    )
    step: int = Field(100, ge=1, description="Epochs between two divisions by 10 (step).")
    power: float = Field(0.9, gt=0, description="Exponent (poly).")
    per: Literal["epoch", "step"] = Field(
        "epoch", description="Whether the rate changes at each epoch or at each step."
    )
    warmup: float = Field(
        0, ge=0, description="Epochs over which the rate grows linearly from zero, step by step."
    )


class Train(Section):
    """The optimisation."""

    epochs: int = Field(ge=1, description="Passes over the training pictures.")
    batch_size: int = Field(ge=1, description="Pictures a step, over all processes.")
    lr: float = Field(gt=0, description="Learning rate at the start.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on every parameter.")
    schedule: Schedule = Field(default_factory=Schedule, description="Learning rate.")
    sync_bn: bool = Field(
        True, description="Batch norm over all processes; nothing to do in a single one."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: bfloat16 autocast, with weights kept in fp32."
    )
    compile: bool = Field(False, description="Run the network through torch.compile.")
    seed: int = Field(0, ge=0, description="Of weights, order of samples and augmentation.")
    eval_every: int = Field(1, ge=1, description="Epochs between two validations.")


class Eval(Section):
    """How validation and `drn eval` look at a picture."""

    scales: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="Sizes at which each picture is seen, relative to it."
    )
    flip: bool = Field(False, description="Look at the mirrored picture too.")
    tile: int | None = Field(
        None, ge=64, description="Side of overlapping tiles in pixels; null takes it whole."
    )

    @field_validator("scales")
    @classmethod
    def _positive(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(scale <= 0 for scale in scales):
            raise ValueError("should all be above 0")
        return scales


class Recipe(Section):
    """Everything that says what a training run is."""

    task: Task = Field(description="What the network answers for each picture or pixel.")
    model: Model
    data: Data
    augment: Augment
    train: Train
    eval: Eval = Field(default_factory=Eval)

    @model_validator(mode="after")
    def _classes_fit_in_a_label(self) -> Self:
        if self.task == "segmentation" and self.data.classes > 255:
            raise ValueError("data.classes: a label map holds 255 classes at most")
        return self
