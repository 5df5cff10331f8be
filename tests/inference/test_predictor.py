import numpy as np
import pytest
import torch
from torch import Tensor

from drn_cli.data.classes import generic
from drn_cli.data.folders import Statistics
from drn_cli.inference.predictor import Predictor, evaluating
from drn_cli.recipe.schema import Eval

STATISTICS = Statistics((0.2, 0.4, 0.6), (0.1, 0.2, 0.3))


def strongest_channel(pictures: Tensor) -> Tensor:
    return pictures


def predictor(**options: object) -> Predictor:
    return Predictor(
        network=strongest_channel,
        statistics=STATISTICS,
        class_set=generic(3),
        device=torch.device("cpu"),
        **options,
    )


@pytest.mark.parametrize(
    "options", [{}, {"view": Eval(tile=64)}, {"view": Eval(flip=True)}, {"bf16": True}]
)
def test_picture_is_normalised_and_each_pixel_gets_its_class(options: dict[str, object]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (72, 80, 3)).astype(np.uint8)
    image.setflags(write=False)  # as Pillow gives them
    normalised = (image / 255 - STATISTICS.mean) / STATISTICS.std
    classes = predictor(**options)(image)
    assert classes.dtype == torch.uint8
    second, first = np.sort(normalised, axis=2)[..., 1:].transpose(2, 0, 1)
    clear = first - second > 1e-4  # where rounding cannot decide
    assert clear.mean() > 0.99
    assert np.array_equal(classes.numpy()[clear], normalised.argmax(axis=2)[clear])
    assert predictor().classes == 3


def test_network_is_put_back_into_its_mode_whatever_happens() -> None:
    model = torch.nn.Linear(1, 1)
    for mode in (True, False):
        model.train(mode)
        with pytest.raises(RuntimeError, match="stop"), evaluating(model):
            assert not model.training
            raise RuntimeError("stop")
        assert model.training is mode
