"""The fields of a recipe: their types, limits, units and meaning."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import MAX_WIDTH, Architecture, Task, architecture, check_width


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes and on as true, which pydantic would take for the number 1.
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError("should be a number")
        return value


class Model(Section):
    """Network and initial weights."""

    arch: str = Field(description="Architecture, such as drn_d_22; `drn models list` lists all.")
    width: float = Field(
        1.0,
        gt=0,
        le=MAX_WIDTH,
        description="Channel multiplier; an extension that is not in the paper. Published weights "
        "need 1.0.",
    )
    weights: str | None = Field(
        None, description="Initial weights: imagenet or a checkpoint file; null: random."
    )

    @field_validator("arch")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return architecture(name).name
        except DrnError as error:
            raise ValueError(str(error)) from error

    @property
    def architecture(self) -> Architecture:
        """The architecture, with its width."""
        return architecture(self.arch, self.width)


class Data(Section):
    """Dataset and data loading."""

    root: str = Field(description="Folder that the paths in the lists are relative to.")
    lists: str | None = Field(
        None, description="Folder of the lists and info.json; null: data.root."
    )
    classes: int = Field(ge=1, le=100_000, description="Number of classes.")
    workers: int | Literal["auto"] = Field(
        "auto",
        description="Data loader workers per training process; 0 loads in the main process.",
    )
    start_method: Literal["fork", "spawn", "forkserver"] = Field(
        "fork", description="Start method of data loader workers; spawn is slow but shares nothing."
    )
    cache: Literal["none", "disk", "memory"] = Field(
        "none",
        description="Cache of decoded training images and labels: disk is data.cache_folder, "
        "memory is /dev/shm, shared by the processes of a node.",
    )
    cache_folder: str | None = Field(
        None, description="Folder of the disk cache; null: drn-cache, beside the lists."
    )

    @field_validator("workers")
    @classmethod
    def _not_negative(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 0:
            raise ValueError("should be 0 or more, or auto")
        return workers


class Augment(Section):
    """Random augmentation, drawn for each training sample."""

    crop: int = Field(ge=1, description="Side of the square training crop, in pixels.")
    scale: float = Field(
        1.0, ge=1, description="Resize by a factor drawn from [1/scale, scale]; 1 is off."
    )
    rotate: int = Field(
        0, ge=0, le=180, description="Rotate by an angle drawn from [-rotate, rotate], in degrees."
    )
    flip: bool = Field(True, description="Flip horizontally with probability 0.5.")


class Loss(Section):
    """Training loss."""

    kind: Literal["cross_entropy", "ohem"] = Field(
        "cross_entropy",
        description="ohem: cross-entropy of hard pixels only (online hard example mining).",
    )
    class_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each class, in the order of their ids; null: all 1."
    )
    label_smoothing: float = Field(
        0, ge=0, lt=1, description="Share of the target that is spread over all classes."
    )
    ohem_threshold: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Pixels whose true class has at least this probability are easy (ohem).",
    )
    ohem_keep: float = Field(
        0.0625,
        gt=0,
        le=1,
        description="Minimum share of an image's valid pixels to keep, hardest first (ohem).",
    )

    @field_validator("class_weights")
    @classmethod
    def _not_negative(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and (min(weights, default=0) < 0 or not any(weights)):
            raise ValueError("should all be 0 or more, and not all 0")
        return weights


class Schedule(Section):
    """Learning rate schedule."""

    kind: Literal["step", "poly", "cosine", "constant"] = Field(
        "step",
        description="step: divide by 10 at intervals; poly: (1 - progress) ** power; "
        "cosine: half a cosine, down to 0.",
    )
    step: int = Field(100, ge=1, description="Epochs between two divisions by 10 (step).")
    power: float = Field(0.9, gt=0, description="Exponent (poly).")
    per: Literal["epoch", "step"] = Field(
        "epoch", description="Update the learning rate at each epoch or at each step."
    )
    warmup: float = Field(
        0, ge=0, description="Epochs of linear warm-up from 0, updated at each step."
    )


class Optimiser(Section):
    """Optimizer and its options, named as in torch.optim."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    nesterov: bool = Field(False, description="Nesterov momentum (sgd).")
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="Decay of the running averages (adamw)."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator (adamw).")
    implementation: Literal["auto", "fused", "foreach", "loop"] = Field(
        "auto", description="Implementation in torch.optim; auto: fused on GPUs, foreach on CPUs."
    )

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("should be two numbers from 0 to below 1")
        return betas


class Train(Section):
    """Optimization, precision and checkpoints."""

    epochs: int = Field(ge=1, description="Passes over the training set.")
    batch_size: int = Field(ge=1, description="Images per step, over all processes.")
    accumulate: int = Field(1, ge=1, description="Gradient accumulation: micro-batches per step.")
    lr: float = Field(gt=0, description="Initial learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum (sgd).")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay, of every parameter.")
    optimiser: Optimiser = Field(default_factory=Optimiser, description="Optimizer.")
    schedule: Schedule = Field(
        default_factory=Schedule, description="Schedule of the learning rate."
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Gradient clipping: maximum norm; null: off."
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="EMA decay per step. The averaged weights are validated and saved as the best "
        "ones; null: off.",
    )
    sync_bn: bool = Field(True, description="Synchronize batch norm statistics across processes.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="bf16, fp16: autocast with fp32 weights. auto: bf16 on GPUs that have it, "
        "fp16 with gradient scaling on others, fp32 on CPUs.",
    )
    tf32: bool = Field(True, description="Allow TF32 in matrix products and convolutions.")
    channels_last: bool = Field(True, description="Use the channels-last memory format.")
    compile: bool | Literal["auto"] = Field(
        "auto", description="Use torch.compile; auto: on GPUs, if the run is long enough to pay."
    )
    checkpoint_activations: bool = Field(
        False,
        description="Activation checkpointing: recompute activations in the backward pass.",
    )
    seed: int = Field(
        0, ge=0, description="Random seed for initialization, sampling and augmentation."
    )
    eval_every: int = Field(1, ge=1, description="Epochs between validations.")
    save_every_steps: int | None = Field(
        None, ge=1, description="Steps between checkpoints within an epoch; null: none."
    )
    save_every_minutes: float | None = Field(
        15, gt=0, description="Minutes between checkpoints within an epoch; null: none."
    )
    keep_last: int = Field(1, ge=1, description="Number of latest checkpoints to keep.")
    max_skipped: int = Field(
        10,
        ge=1,
        description="Stop after this many consecutive steps with a non-finite loss.",
    )
    timeout: float | None = Field(
        600,
        gt=0,
        le=365 * 86400,
        description="Seconds without progress in all ranks (micro-batches, validation images, "
        "checkpoints) after which the rank that blocks the others is killed; at least 1800 at the "
        "start and for a compilation. For jobs started with --gpus, --nnodes or --max-restarts; "
        "null: no timeout after the rendezvous.",
    )
    log_every: int = Field(10, ge=1, description="Steps between two lines of metrics.")
    tensorboard: bool = Field(
        False, description="Log to TensorBoard too; needs `pip install 'drn-cli[tensorboard]'`."
    )


MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the scales of the paper's code, for `--ms`


class Eval(Section):
    """Validation and `drn eval`."""

    scales: tuple[float, ...] = Field(
        (1.0,),
        min_length=1,
        description="Scales for multi-scale evaluation, relative to the input size.",
    )
    flip: bool = Field(False, description="Average with the horizontally flipped image.")
    tile: int | None = Field(
        None, ge=64, description="Tile size for sliding-window inference; null: whole image."
    )
    resize: int = Field(
        256,
        ge=1,
        description="Shorter side before the center crop, in pixels (classification).",
    )

    @field_validator("scales")
    @classmethod
    def _positive(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(scale <= 0 for scale in scales):
            raise ValueError("should all be above 0")
        return scales


class Recipe(Section):
    """All settings of a training run."""

    task: Task = Field(description="One class for each image (classification) or each pixel.")
    model: Model
    data: Data
    augment: Augment
    loss: Loss = Field(default_factory=Loss)
    train: Train
    eval: Eval = Field(default_factory=Eval)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check rules across sections; each message starts with the key to blame."""
        try:
            check_width(self.model.width, self.model.weights)
        except DrnError as error:
            raise ValueError(f"model.width: {error}") from error
        classes, loss, train = self.data.classes, self.loss, self.train
        if self.task == "segmentation" and classes > 255:
            raise ValueError("data.classes: a label map holds at most 255 classes")
        weights = loss.class_weights
        if weights is not None and len(weights) != classes:
            raise ValueError(f"loss.class_weights: {len(weights)} weights for {classes} classes")
        if loss.kind == "ohem" and self.task != "segmentation":
            raise ValueError("loss.kind: ohem selects pixels, so it needs task=segmentation")
        if train.batch_size % train.accumulate:
            raise ValueError(
                f"train.accumulate: batch size {train.batch_size} is not divisible into "
                f"{train.accumulate} micro-batches"
            )
        if train.compile is True and train.checkpoint_activations:
            raise ValueError(
                "train.checkpoint_activations: cannot be combined with train.compile=true"
            )
        return self
