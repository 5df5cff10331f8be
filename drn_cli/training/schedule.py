"""Learning rate schedules."""

import math

from drn_cli.recipe.schema import Schedule


def learning_rate(schedule: Schedule, base: float, epochs: int, epoch: int, done: float) -> float:
    """Return the learning rate of a step.

    With t the number of epochs done, whole epochs for `per: epoch` (as in the paper's code) or with
    a fraction for `per: step`, and T the total number, the rate is

        step      base / 10 ** floor(t / step)
        poly      base * (1 - t / T) ** power
        cosine    base * (1 + cos(pi * t / T)) / 2    (Loshchilov and Hutter 2017, one period)
        constant  base

    During the warm-up it is multiplied by the fraction of the warm-up that is done, at each step.

    Args:
        schedule: The recipe's schedule.
        base: Initial learning rate.
        epochs: Total number of epochs.
        epoch: The current epoch, from 0.
        done: Fraction of the current epoch that is done, in [0, 1).
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
