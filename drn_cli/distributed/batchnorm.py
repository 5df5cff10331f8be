"""Batch norm over the batches of all processes, on GPUs and on CPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one that sees the batches of all processes.

    On GPUs that is torch's own, which refuses CPU tensors; there it is ours. Both weight processes
    by their pixels, and keep statistics in float32 or better when autocast makes the maps
    narrower. Names and shapes of the weights stay as they are.

    A single process has nothing to synchronize: it is to keep plain batch norm, which is faster.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return]
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncBatchNormCPU):
            setattr(model, name, SyncBatchNormCPU.of(child))
        else:
            convert_sync_batchnorm(child, device)
    return model


class SyncBatchNormCPU(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of all processes together.

    Processes may hold different numbers of pixels. In evaluation, and with a single process, it
    is plain batch norm.
    """

    @classmethod
    def of(cls, plain: nn.BatchNorm2d) -> "SyncBatchNormCPU":
        """Take over another batch norm's settings and its very weights and statistics."""
        made = cls(
            plain.num_features,
            plain.eps,
            plain.momentum,
            plain.affine,
            plain.track_running_stats,
        )
        made.weight, made.bias = plain.weight, plain.bias
        made.running_mean, made.running_var = plain.running_mean, plain.running_var
        made.num_batches_tracked = plain.num_batches_tracked
        return made.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        out, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._update_running_statistics(mean, variance, int(count))
        return out  # type: ignore[no-any-return]

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # torch's sign for a cumulative average
            momentum = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / max(1, count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalise(torch.autograd.Function):
    """`weight * (x - mean) / sqrt(variance + eps) + bias` over all processes.

    Backward is the gradient of plain batch norm (Ioffe and Szegedy 2015) with both of its
    sums taken over all processes. Those of weight and bias stay local: whoever averages the
    gradients of the other parameters averages them too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(x)
        scale = torch.rsqrt(variance + eps)
        # In double up to here: these are a few numbers a channel.
        pixels = _precise(x)
        mean_, scale_ = _spread(mean, pixels), _spread(scale, pixels)
        normal = (pixels - mean_) * scale_
        ctx.save_for_backward(normal, weight, scale_, count)
        ctx.mark_non_differentiable(mean, variance, count)
        out = torch.addcmul(_spread(bias, pixels), normal, _spread(weight, pixels))
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, weight, scale, count = ctx.saved_tensors
        grad = _precise(grad_out)
        grad_bias = grad.sum((0, 2, 3))
        grad_weight = (grad * normal).sum((0, 2, 3))
        sums = torch.stack([grad_bias, grad_weight]).double()
        dist.all_reduce(sums)
        mean_grad, mean_grad_normal = (_spread(total, grad) for total in sums / count)
        grad_x = (grad - mean_grad - normal * mean_grad_normal) * (scale * _spread(weight, grad))
        return grad_x.to(grad_out.dtype), grad_weight, grad_bias, None


def _precise(x: Tensor) -> Tensor:
    """Leave float and double as they are; in bfloat16, as under autocast, sums go astray."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _spread(channels: Tensor, like: Tensor) -> Tensor:
    """Shape one number a channel so that it applies to a map."""
    return channels.to(like.dtype).view(1, -1, 1, 1)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give mean, biased variance `(C,)` and number of pixels over all processes, in double.

    Each process centres its own pixels before it squares them, and the parts are joined by Chan's
    formula (Chan, Golub, LeVeque 1979): summing plain squares would lose digits.
    """
    variance, mean = torch.var_mean(_precise(x), dim=(0, 2, 3), unbiased=False)
    count = torch.full_like(mean, x.numel() // x.shape[1], dtype=torch.double)
    mine = torch.stack([count, mean.double(), variance.double()])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    counts, means, variances = torch.stack(parts, dim=1)  # each (processes, C)
    total = counts.sum(0)
    joint = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - joint) ** 2)).sum(0) / total
    return joint, spread, total[0]
