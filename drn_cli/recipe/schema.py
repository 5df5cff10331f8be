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
from drn_cli.networks.catalog import MAX_WIDTH, Architecture, Task, architecture, check_width


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
    width: float = Field(
        1.0,
        gt=0,
        le=MAX_WIDTH,
        description="Channel multiplier; an extension that is not in the paper. Published weights "
        "need 1.0.",
    )
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

    @property
    def architecture(self) -> Architecture:
        """The architecture, with its width."""
        return architecture(self.arch, self.width)


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


class Loss(Section):
    """What is minimised."""

    kind: Literal["cross_entropy", "ohem"] = Field(
        "cross_entropy",
        description="ohem: cross-entropy of the hard pixels alone (online hard example mining).",
    )
    class_weights: tuple[float, ...] | None = Field(
        None, description="A weight for each class, in the order of their ids; null is all 1."
    )
    label_smoothing: float = Field(
        0, ge=0, lt=1, description="Share of the target that is spread over all classes."
    )
    ohem_threshold: float = Field(
        0.7, gt=0, le=1, description="Pixels of at least this probability are easy (ohem)."
    )
    ohem_keep: float = Field(
        0.0625,
        gt=0,
        le=1,
        description="Share of a picture's valid pixels that is kept at least, the hardest (ohem).",
    )

    @field_validator("class_weights")
    @classmethod
    def _not_negative(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and (min(weights, default=0) < 0 or not any(weights)):
            raise ValueError("should all be 0 or more, and not all 0")
        return weights


class Schedule(Section):
    """How the learning rate falls."""

    kind: Literal["step", "poly", "cosine", "constant"] = Field(
        "step",
        description="step: divided by 10 now and then; poly: (1 - progress) ** power; "
        "cosine: half a cosine, down to zero.",
    )
    step: int = Field(100, ge=1, description="Epochs between two divisions by 10 (step).")
    power: float = Field(0.9, gt=0, description="Exponent (poly).")
    per: Literal["epoch", "step"] = Field(
        "epoch", description="Whether the rate changes at each epoch or at each step."
    )
    warmup: float = Field(
        0, ge=0, description="Epochs over which the rate grows linearly from zero, step by step."
    )


class Optimiser(Section):
    """Which optimiser, with its options as torch.optim has them."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    nesterov: bool = Field(False, description="Nesterov's momentum (sgd).")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of the averages (adamw).")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator (adamw).")
    implementation: Literal["auto", "fused", "foreach", "loop"] = Field(
        "auto", description="How torch computes a step; auto is fused on GPUs, foreach on CPUs."
    )

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("should be two numbers from 0 to below 1")
        return betas


class Train(Section):
    """The optimisation."""

    epochs: int = Field(ge=1, description="Passes over the training pictures.")
    batch_size: int = Field(ge=1, description="Pictures a step, over all processes.")
    accumulate: int = Field(
        1, ge=1, description="Passes that a step's pictures are split into, to save memory."
    )
    lr: float = Field(gt=0, description="Learning rate at the start.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on every parameter.")
    optimiser: Optimiser = Field(default_factory=Optimiser, description="Optimiser.")
    schedule: Schedule = Field(default_factory=Schedule, description="Learning rate.")
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; null does not limit it."
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay a step of an average of the weights, which is validated and kept as "
        "the best; null keeps none.",
    )
    sync_bn: bool = Field(
        True, description="Batch norm over all processes; nothing to do in a single one."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="bf16 and fp16: autocast, with weights kept in fp32; auto is bf16 on GPUs "
        "that have it, fp16 with scaled gradients on others, fp32 on CPUs.",
    )
    tf32: bool = Field(True, description="Let GPUs round the factors of fp32 products to TF32.")
    channels_last: bool = Field(True, description="Keep maps in channels-last memory.")
    compile: bool | Literal["auto"] = Field(
        "auto", description="Run the network through torch.compile; auto: on GPUs, if it pays."
    )
    checkpoint_activations: bool = Field(
        False, description="Compute activations again in the backward pass, to save memory."
    )
    seed: int = Field(0, ge=0, description="Of weights, order of samples and augmentation.")
    eval_every: int = Field(1, ge=1, description="Epochs between two validations.")
    save_every_steps: int | None = Field(
        None, ge=1, description="Steps between two checkpoints inside an epoch; null is never."
    )
    save_every_minutes: float | None = Field(
        15, gt=0, description="Minutes between two checkpoints inside an epoch; null is never."
    )
    keep_last: int = Field(1, ge=1, description="How many of the last checkpoints are kept.")
    max_skipped: int = Field(
        10, ge=1, description="Steps in a row with a loss that is not finite, before the run stops."
    )
    timeout: float | None = Field(
        600,
        gt=0,
        le=365 * 86400,
        description="Seconds in which no process of a job advances (a pass, a validation image, a "
        "checkpoint; 1800 at least for the start and for a compilation) before the one that holds "
        "the others up is killed; for jobs that --gpus, --nnodes or --max-restarts started. null "
        "is never, once the processes have met.",
    )
    log_every: int = Field(10, ge=1, description="Steps between two lines of metrics.")
    tensorboard: bool = Field(
        False, description="Write for TensorBoard too; needs `pip install 'drn-cli[tensorboard]'`."
    )


MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the sizes of the paper's code, for `--ms`


class Eval(Section):
    """How validation and `drn eval` look at a picture."""

    scales: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="Sizes at which each picture is seen, relative to it."
    )
    flip: bool = Field(False, description="Look at the mirrored picture too.")
    tile: int | None = Field(
        None, ge=64, description="Side of overlapping tiles in pixels; null takes it whole."
    )
    resize: int = Field(
        256,
        ge=1,
        description="What the shorter side is brought to before the centre is cut out, in pixels "
        "(classification).",
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
    loss: Loss = Field(default_factory=Loss)
    train: Train
    eval: Eval = Field(default_factory=Eval)

    @model_validator(mode="after")
    def _width_fits(self) -> Self:
        try:
            check_width(self.model.width, self.model.weights)
        except DrnError as error:
            raise ValueError(f"model.width: {error}") from error
        return self

    @model_validator(mode="after")
    def _classes_fit_in_a_label(self) -> Self:
        if self.task == "segmentation" and self.data.classes > 255:
            raise ValueError("data.classes: a label map holds 255 classes at most")
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        weights = self.loss.class_weights
        if weights is not None and len(weights) != self.data.classes:
            raise ValueError(
                f"loss.class_weights: {len(weights)} weights for {self.data.classes} classes"
            )
        if self.loss.kind == "ohem" and self.task != "segmentation":
            raise ValueError("loss.kind: ohem chooses pixels, and is for segmentation")
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        train = self.train
        if train.batch_size % train.accumulate:
            raise ValueError(
                f"train.accumulate: {train.batch_size} pictures a step cannot be split into "
                f"{train.accumulate} equal passes"
            )
        if train.compile is True and train.checkpoint_activations:
            raise ValueError(
                "train.checkpoint_activations: does not go with train.compile; switch one off"
            )
        return self
