"""Floating-point operations and activation memory of a network, without computing anything.

Networks run on tensors that have a shape and a type, but no content.
"""

import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.models import DRN, build
from drn_cli.networks.recomputation import enable_activation_checkpointing

SIDE = 224  # pixels, of the image on which classifiers are compared


@lru_cache
def forward_flops(
    arch: Architecture,
    task: Task = "classification",
    classes: int = 1000,
    *,
    height: int = SIDE,
    width: int = SIDE,
) -> int:
    """Return the operations of a forward pass of one image, 2 for each multiply-add.

    As in `torch.utils.flop_counter`, and everywhere in the field, convolutions count; batch norm,
    ReLU and resizing do not.
    """
    model, image = _without_content(arch, task, classes, height, width)
    counts: list[int] = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        counts.append(2 * output.numel() * module.weight[0].numel())

    _remove_batch_norm(model)  # without content it takes a second to import
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(image)
    return sum(counts)


@lru_cache
def step_flops(arch: Architecture, task: Task, classes: int, *, height: int, width: int) -> int:
    """Return the operations of a forward and a backward pass of one image, as in training.

    What activation checkpointing computes a second time is not counted.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a second that lists do not need

    model, image = _without_content(arch, task, classes, height, width)
    with FlopCounterMode(display=False) as counter:
        model.train()(image).sum().backward()
    return int(counter.get_total_flops())


def _without_content(
    arch: Architecture, task: Task, classes: int, height: int, width: int
) -> tuple[DRN, Tensor]:
    with torch.device("meta"):
        return build(arch, task, classes), torch.empty(1, 3, height, width)


def _remove_batch_norm(model: DRN) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())


class MemoryTracker(TorchDispatchMode):
    """Sums up the storages that exist, as operations allocate them and Python frees them.

    Attributes:
        peak: The most bytes at a time.

    Args:
        held: Tensors from before, which do not count.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in held)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            # The storage of a view, or of an operation in place, is known.
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self._known:
                storage = leaf.untyped_storage()
                self._known.add(storage)
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, size: int) -> None:
        self._now -= size


class ActivationBytes(NamedTuple):
    """Memory of a pass beside weights and gradients.

    Attributes:
        peak: The most bytes at a time: images, activations, outputs, and what is temporary.
        saved: Bytes that a forward pass keeps for its backward pass; 0 in inference.
    """

    peak: int
    saved: int


def activation_bytes(
    arch: Architecture,
    task: Task,
    classes: int,
    shape: tuple[int, int, int],
    *,
    dtype: torch.dtype | None = None,
    folded: bool = False,
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    checkpointing: bool = False,
) -> ActivationBytes:
    """Run a pass without content and measure its activations.

    It runs on fake CPU tensors, also for GPUs and in 16 bits: autocast gives convolutions, batch
    norms and all between them the same types on both. Up-sampling is in float32 on CPUs only, which
    is one more map of the size of the logits. What libraries take besides, such as copies in other
    memory formats, is not counted.

    Args:
        arch: Architecture.
        task: What the network predicts.
        classes: Number of classes.
        shape: Batch size, height and width of the images.
        dtype: Of autocast; None is float32. Its copies of the weights count in training, in
            `peak`; in inference the weights are in that type themselves.
        folded: Whether batch norm is part of the convolutions and makes no maps of its own.
        loss: Training loss, the first result of a call with logits and labels; None measures
            inference, up to the scores of a segmenter or the logits of a classifier.
        checkpointing: Whether activations are recomputed in the backward pass.
    """
    from torch._subclasses import FakeTensorMode

    saved: dict[int, int] = {}

    shapes = set[torch.Size]()

    def save(tensor: Tensor) -> Tensor:
        if tensor.dtype != dtype or tensor.shape not in shapes:  # no copy of a weight
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    batch, *size = shape
    with FakeTensorMode(allow_non_fake_inputs=True):  # class weights of the loss
        model = build(arch, task, classes).train(loss is not None)
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        shapes.update(module.weight.shape for module in convolutions)
        for module in convolutions if loss is None else ():
            for name, weight in list(module.named_parameters()):  # loaded in the type of autocast
                setattr(module, name, nn.Parameter(weight.detach().to(dtype)))
        if folded:
            _remove_batch_norm(model)
        if checkpointing:
            enable_activation_checkpointing(model)
        held = [*model.parameters(), *model.buffers()]
        if loss is not None:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
                held.append(parameter.grad)
        with MemoryTracker(held) as tracker, torch.inference_mode(loss is None):
            autocast = torch.autocast("cpu", dtype, enabled=dtype is not None)
            if loss is None:
                images = torch.empty(batch, 3, *size)
                with autocast:
                    model(images) if task == "classification" else model.scores(images)
            else:
                labels_size = size if task == "segmentation" else ()
                labels = torch.empty(batch, *labels_size, dtype=torch.long)
                with saved_tensors_hooks(save, lambda tensor: tensor):
                    with autocast:
                        logits = model(torch.empty(batch, 3, *size))
                    total, _ = loss(logits, labels)
                for tensor in held:
                    saved.pop(tensor.untyped_storage()._cdata, None)
                total.backward()
    return ActivationBytes(tracker.peak, sum(saved.values()))
