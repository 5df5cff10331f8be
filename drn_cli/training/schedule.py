"""The learning rate as a function of where training is."""

import math

from drn_cli.recipe.schema import Schedule


def learning_rate(schedule: Schedule, base: float, epochs: int, epoch: int, done: float) -> float:
    """Give the rate of one step.

    With t the epochs that lie behind, whole ones for `per: epoch` (as in the paper's code) and
    parts included for `per: step`, and T their number, the rate is

        step      base / 10 ** floor(t / step)
        poly      base * (1 - t / T) ** power
        cosine    base * (1 + cos(pi * t / T)) / 2    (Loshchilov and Hutter 2017, one period)
        constant  base

    and, in the epochs of the warm-up, that times the share of the warm-up that lies behind, which
    grows at each step.

    Args:
        schedule: The recipe's schedule.
        base: The rate at the start.
        epochs: Length of the training.
        epoch: The current epoch, from 0.
        done: Share of the current epoch that lies behind, in [0, 1).
    """
    now = epoch + (done if schedule.per == "step" else 0)
    rate = base
    if schedule.kind == "step":
        rate *= 0.1 ** (now // schedule.step)
    elif schedule.kind == "poly":
        rate *= (1 - now / epochs) ** schedule.power
    elif schedule.kind == "cosine":
        rate *= (1 + math.cos(math.pi * now / epochs)) / 2
    if epoch + done < schedule.warmup:
        rate *= (epoch + done) / schedule.warmup
    return rate
