"""FLOPs and activation memory of a network, measured on meta and fake tensors."""

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

SIDE = 224  # pixels, side of the image for which FLOPs are usually stated


@lru_cache
def forward_flops(
    arch: Architecture,
    task: Task = "classification",
    classes: int = 1000,
    *,
    height: int = SIDE,
    width: int = SIDE,
) -> int:
    """Return the FLOPs of a forward pass of one image, 2 per multiply-add.

    As in `torch.utils.flop_counter`, only convolutions count; batch norm, ReLU and resizing do not.
    """
    counts: list[int] = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        counts.append(2 * output.numel() * module.weight[0].numel())

    with torch.device("meta"), torch.no_grad():
        model = build(arch, task, classes).eval()
        _remove_batch_norm(model)  # whose meta implementation takes a second to import
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        model(torch.empty(1, 3, height, width))
    return sum(counts)


@lru_cache
def step_flops(arch: Architecture, task: Task, classes: int, *, height: int, width: int) -> int:
    """Return the FLOPs of a forward and a backward pass of one image, without recomputation."""
    from torch.utils.flop_counter import FlopCounterMode  # its import takes a second

    with torch.device("meta"):
        model, image = build(arch, task, classes), torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        model(image).sum().backward()
    return int(counter.get_total_flops())


def _remove_batch_norm(model: DRN) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())


class MemoryTracker(TorchDispatchMode):
    """Tracks the memory of tensors, as operations allocate them and Python frees them.

    Args:
        held: Existing tensors, which are not counted.

    Attributes:
        peak: Peak memory in bytes.
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
            # Views and in-place operations return known storages.
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
    """Memory of a forward (and backward) pass in bytes, without weights and gradients."""

    peak: int  # peak memory of inputs, activations, outputs and temporary tensors
    saved: int  # tensors that are kept for the backward pass; 0 in inference


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
    """Measure the activation memory of a pass over fake tensors.

    The fake tensors are on the CPU, also for GPUs: autocast selects the same types on both, except
    for upsampling, which is in float32 on CPUs (one more map of the size of the logits). Memory of
    libraries, such as copies in other memory formats, is not counted.

    Args:
        arch: Architecture.
        task: Task of the network.
        classes: Number of classes.
        shape: Batch size, height and width of the images.
        dtype: Type of autocast; None is float32. In training, `peak` includes autocast's copies of
            the weights; in inference the weights themselves have this type.
        folded: Whether batch norm is folded into the convolutions.
        loss: Training loss, the first result of a call with logits and labels; None measures
            inference, up to the scores of a segmenter or the logits of a classifier.
        checkpointing: Whether activation checkpointing is enabled.
    """
    from torch._subclasses import FakeTensorMode

    saved: dict[int, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):  # class weights of the loss are real
        model = build(arch, task, classes).train(loss is not None)
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        shapes = {module.weight.shape for module in convolutions}

        def save(tensor: Tensor) -> Tensor:
            if tensor.dtype != dtype or tensor.shape not in shapes:  # not a copy of a weight
                saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        for module in convolutions if loss is None else ():
            for name, weight in list(module.named_parameters()):  # Module.to fails on fake tensors
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
        batch, *size = shape
        autocast = torch.autocast("cpu", dtype, enabled=dtype is not None)
        with MemoryTracker(held) as tracker, torch.inference_mode(loss is None):
            if loss is None:
                images = torch.empty(batch, 3, *size)
                with autocast:
                    model(images) if task == "classification" else model.scores(images)
            else:
                labels = torch.empty(
                    batch, *(size if task == "segmentation" else ()), dtype=torch.long
                )
                with saved_tensors_hooks(save, lambda tensor: tensor):
                    with autocast:
                        logits = model(torch.empty(batch, 3, *size))
                    total, _ = loss(logits, labels)
                for tensor in held:
                    saved.pop(tensor.untyped_storage()._cdata, None)
                total.backward()
    return ActivationBytes(tracker.peak, sum(saved.values()))
