"""The learning rate as a function of where training is."""

from drn_cli.recipe.schema import Schedule


def learning_rate(schedule: Schedule, base: float, epochs: int, epoch: int, done: float) -> float:
    """Give the rate of one step.

    Args:
        schedule: The recipe's schedule.
        base: The rate at the start.
        epochs: Length of the training.
        epoch: The current epoch, from 0.
        done: Share of the current epoch that lies behind, in [0, 1).

    The paper's code changes the rate at each epoch: `base / 10 ** (epoch // step)` or
    `base * (1 - epoch / epochs) ** power`.
    """
    now = epoch + (done if schedule.per == "step" else 0)
    if schedule.kind == "step":
        rate = base * 0.1 ** (now // schedule.step)
    elif schedule.kind == "poly":
        rate = base * (1 - now / epochs) ** schedule.power
    else:
        rate = base
    if epoch + done < schedule.warmup:
        rate *= (epoch + done) / schedule.warmup
    return rate
