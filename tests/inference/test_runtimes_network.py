"""What an exported network's file says decides how it is run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drn_cli.data.batches import normalise
from drn_cli.errors import DrnError
from drn_cli.inference.runtimes import AS_PIXELS, ExportedNetwork, Output

METADATA = {"arch": "drn_d_22", "task": "segmentation", "classes": "7", "outputs": "logits,scores"}
CPU = torch.device("cpu")


def network(
    seen: list[tuple[object, ...]], **metadata: str
) -> tuple[ExportedNetwork, Callable[[Tensor, Output], Tensor]]:
    """Make a network that notes what it is started with and what it gets, and gives it back."""

    def start(device: torch.device, threads: int, at_once: int) -> Callable[..., Tensor]:
        seen.append((device, threads, at_once))

        def run(x: Tensor, output: Output) -> Tensor:
            seen.append((x.dtype, output))
            return x

        return run

    made = ExportedNetwork(
        path=Path("net.onnx"),
        metadata={"input": "normalised"} | METADATA | metadata,
        runtime="none",
        start=start,
    )
    return made, made.session(CPU, 2)


def test_what_the_file_says() -> None:
    made, _ = network([])
    assert (made.arch, made.task, made.classes) == ("drn_d_22", "segmentation", 7)
    assert (made.answers_classes, made.takes_pixels, made.size) == (False, False, None)
    other, _ = network([], input="uint8", outputs="classes", size="48x64")
    assert (other.answers_classes, other.takes_pixels, other.size) == (True, True, (48, 64))


def test_threads_are_shared_between_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    seen: list[tuple[object, ...]] = []
    made, _ = network(seen)
    made.session(CPU, 100)
    assert seen == [(CPU, 4, 2), (CPU, 1, 100)]


def test_pixels_arrive_as_they_were() -> None:
    seen: list[tuple[object, ...]] = []
    _, run = network(seen, input="uint8")
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    given = run(normalise(pixels, AS_PIXELS), "scores")
    assert torch.equal(given, pixels.permute(0, 3, 1, 2))
    assert seen[-1] == (torch.uint8, "scores")


def test_normalised_pictures_stay_floats() -> None:
    seen: list[tuple[object, ...]] = []
    _, run = network(seen)
    x = torch.randn(1, 3, 5, 7)
    assert torch.equal(run(x, "logits"), x)
    assert seen[-1] == (torch.float32, "logits")


def test_a_frozen_size_is_the_only_one() -> None:
    _, run = network([], size="48x64")
    assert run(torch.zeros(2, 3, 48, 64), "logits").shape == (2, 3, 48, 64)
    with pytest.raises(DrnError, match=r"net\.onnx: input size 48x64 is not .* 64x48"):
        run(torch.zeros(1, 3, 64, 48), "logits")
