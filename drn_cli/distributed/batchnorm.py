"""Synchronized batch norm, on GPUs and on CPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one that computes its statistics over all processes.

    On GPUs this is `torch.nn.SyncBatchNorm`, which does not support CPU tensors; on CPUs it is
    `SyncBatchNormCPU`. Both weight processes by their number of pixels, and compute statistics in
    float32 or better under autocast. Names and shapes of the weights do not change.

    A single process should keep plain batch norm, which is faster.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncBatchNormCPU):
            setattr(model, name, SyncBatchNormCPU.of(child))
        else:
            convert_sync_batchnorm(child, device)
    return model


class SyncBatchNormCPU(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with training statistics over all processes.

    Processes may have different numbers of pixels. In evaluation mode, and in a single process,
    this is plain batch norm.
    """

    @classmethod
    def of(cls, plain: nn.BatchNorm2d) -> "SyncBatchNormCPU":
        """Create a layer that shares the weights and statistics of a plain batch norm."""
        made = cls(
            plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats
        )
        made.weight, made.bias = plain.weight, plain.bias
        made.running_mean, made.running_var = plain.running_mean, plain.running_var
        made.num_batches_tracked = plain.num_batches_tracked
        return made.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        out: Tensor
        out, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        self._update_running_statistics(mean, variance, int(count))
        return out

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # a cumulative average
            momentum = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / max(1, count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalize(torch.autograd.Function):
    """`weight * (x - mean) / sqrt(variance + eps) + bias` over all processes.

    Backward is the gradient of plain batch norm (Ioffe and Szegedy 2015) with both of its
    sums taken over all processes. The gradients of weight and bias stay local: DDP averages
    them like those of all other parameters.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(x)
        scale = torch.rsqrt(variance + eps)
        # Statistics are in double, which costs little: a few numbers per channel.
        pixels = _at_least_float32(x)
        mean_, scale_ = _per_channel(mean, pixels), _per_channel(scale, pixels)
        normal = (pixels - mean_) * scale_
        ctx.save_for_backward(normal, weight, scale_, count)
        ctx.mark_non_differentiable(mean, variance, count)
        out = torch.addcmul(_per_channel(bias, pixels), normal, _per_channel(weight, pixels))
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, weight, scale, count = ctx.saved_tensors
        grad = _at_least_float32(grad_out)
        grad_bias = grad.sum((0, 2, 3))
        grad_weight = (grad * normal).sum((0, 2, 3))
        sums = torch.stack([grad_bias, grad_weight]).double()
        dist.all_reduce(sums)
        mean_grad, mean_grad_normal = (_per_channel(total, grad) for total in sums / count)
        grad_x = grad - mean_grad - normal * mean_grad_normal
        grad_x = grad_x * (scale * _per_channel(weight, grad))
        return grad_x.to(grad_out.dtype), grad_weight, grad_bias, None


def _at_least_float32(x: Tensor) -> Tensor:
    """Convert 16-bit floats, as under autocast, to float32: sums in 16 bits lose precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _per_channel(channels: Tensor, like: Tensor) -> Tensor:
    """Reshape `(C,)` so that it broadcasts over `(N, C, H, W)`."""
    return channels.to(like.dtype).view(1, -1, 1, 1)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance `(C,)` and number of pixels over all processes, in double.

    The variances of the processes are combined with the formula of Chan, Golub and LeVeque (1979),
    because a sum of squares loses precision.
    """
    variance, mean = torch.var_mean(_at_least_float32(x), dim=(0, 2, 3), unbiased=False)
    count = torch.full_like(mean, x.numel() // x.shape[1], dtype=torch.double)
    mine = torch.stack([count, mean.double(), variance.double()])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    counts, means, variances = torch.stack(parts, dim=1)  # each (processes, C)
    total = counts.sum(0)
    joint_mean = (counts * means).sum(0) / total
    joint_variance = (counts * (variances + (means - joint_mean) ** 2)).sum(0) / total
    return joint_mean, joint_variance, total[0]
