"""Memory estimates and tile sizes."""

import os
import subprocess
import sys

import pytest
import torch

from drn_cli.inference import memory
from drn_cli.inference.memory import MIN_TILE, TileSizer, available_bytes, bytes_per_pixel
from drn_cli.networks import list_models
from drn_cli.networks.catalog import architecture
from drn_cli.networks.profiling import MemoryTracker
from drn_cli.recipe.schema import Eval

CPU = torch.device("cpu")
A18 = architecture("drn_a_18")
A34 = architecture("drn_a_34")
A50 = architecture("drn_a_50")
D22 = architecture("drn_d_22")
D38 = architecture("drn_d_38")
D54 = architecture("drn_d_54")


def test_memory_tracker_peak() -> None:
    held = torch.zeros(1000)
    with MemoryTracker([held]) as live:
        held.add_(1)
        assert live.peak == 0
        first = held + 1
        assert live.peak == 4000
        views = [first[10:], first.view(10, 100), first.relu_()]
        assert live.peak == 4000
        second = first.double()
        assert live.peak == 12000
        del first
        del views
        third = second.to(torch.uint8)
        assert live.peak == 12000
        fourth = third.repeat(8)
        assert live.peak == 8000 + 1000 + 8000
    assert len(fourth) == 8 * len(third)


@pytest.mark.parametrize("arch", list_models())
def test_bytes_per_pixel_of_each_architecture(arch: str) -> None:
    # Levels 0 and 1 of families B, C and D have 16 channels at the image's size; the stem of A
    # has 64 at a half.
    stem = 4 * (16 if arch.startswith("drn_a") else 2 * 16)
    assert stem < bytes_per_pixel(architecture(arch)) < 1500


def test_bytes_per_pixel_depend_on_width_not_depth() -> None:
    assert bytes_per_pixel(A18) == bytes_per_pixel(A34) < bytes_per_pixel(A50)
    assert bytes_per_pixel(D22) == bytes_per_pixel(D38) < bytes_per_pixel(D54)
    assert bytes_per_pixel(None) > 0


REAL = """
import torch
from drn_cli.inference.memory import bytes_per_pixel
from drn_cli.networks.catalog import architecture
from drn_cli.inference.preparation import for_inference
from drn_cli.networks import create_model

def resident(what):
    [line] = [line for line in open("/proc/self/status") if line.startswith(what)]
    return int(line.split()[1]) * 1024

x = torch.rand(1, 3, 320, 448).to(memory_format=torch.channels_last)
with torch.inference_mode():
    model = for_inference(create_model("drn_d_22", "segmentation", 19), torch.device("cpu"))
    model.scores(x[..., :64, :64])  # allocations of the libraries
    open("/proc/self/clear_refs", "w").write("5")  # reset the peak
    before = resident("VmRSS")
    model.scores(x)
    taken = resident("VmHWM") - before
print(bytes_per_pixel(architecture("drn_d_22")) * 320 * 448 / taken)
"""


def test_estimate_matches_resident_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        # Freed memory is returned to the system, so that the peak counts later allocations.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0.7 < float(done.stdout) < 1.4


def test_available_bytes_are_shared_by_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert available_bytes(CPU) == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_bytes(CPU) == 250


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Set the free memory to the last number of a list."""
    numbers = [0.0]
    monkeypatch.setattr(memory, "available_bytes", lambda _: numbers[-1])
    return numbers


def bytes_for(height: float, width: float, arch: str | None = None) -> float:
    """Return the free memory that an image needs without tiles."""
    return height * width * bytes_per_pixel(arch and architecture(arch)) / memory.SHARE + 1


def test_only_images_that_do_not_fit_are_tiled(
    free: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "drn_cli")
    free.append(bytes_for(600, 800))
    tiles = TileSizer(None, CPU)
    for size in ((600, 800), (800, 600), (100, 4800), (1, 1)):
        assert tiles.side_for(*size, Eval()) is None
    assert not caplog.records
    side = tiles.side_for(600, 801, Eval())
    assert side is not None
    assert side % 8 == 0
    assert side**2 <= 600 * 800 < (side + 8) ** 2
    assert tiles.side_for(6000, 8000, Eval()) == side
    assert tiles.side is None  # memory has not run out
    assert [record.args for record in caplog.records] == [(801, 600, side)]  # once


def test_largest_scale_has_to_fit(free: list[float]) -> None:
    free.append(bytes_for(600, 800))
    tiles = TileSizer(None, CPU)
    assert tiles.side_for(400, 533, Eval(scales=(0.5, 1.5))) is None
    assert tiles.side_for(400, 534, Eval(scales=(1.5, 0.5))) is not None
    assert tiles.side_for(1200, 1600, Eval(scales=(0.5,))) is None


def test_larger_network_gets_smaller_tiles(free: list[float]) -> None:
    free.append(bytes_for(512, 512, "drn_d_22"))
    few, many = (
        TileSizer(architecture(arch), CPU).side_for(4000, 4000, Eval())
        for arch in ("drn_d_22", "drn_d_105")
    )
    assert few == 512
    assert many is not None
    assert bytes_for(many, many, "drn_d_105") < free[-1] < bytes_for(few, few, "drn_d_105")


def test_concurrent_images_share_memory(free: list[float]) -> None:
    free.append(bytes_for(512, 512))
    assert TileSizer(None, CPU).side_for(512, 512, Eval()) is None
    assert TileSizer(None, CPU, concurrency=4).side_for(512, 512, Eval()) == 256
    free.append(4 * free[-1])
    assert TileSizer(None, CPU, concurrency=4).side_for(512, 512, Eval()) is None


def test_minimum_tile_size(free: list[float]) -> None:
    assert TileSizer(None, CPU).side_for(2000, 2000, Eval()) == MIN_TILE


def test_memory_is_measured_once(free: list[float]) -> None:
    # Later measurements would include the activations of the first images.
    free.append(bytes_for(512, 512))
    tiles = TileSizer(None, CPU)
    side = tiles.side_for(1000, 1000, Eval())
    free.append(0)
    assert tiles.side_for(1000, 1000, Eval()) == side
    assert tiles.side_for(512, 512, Eval()) is None


def test_given_and_reduced_tile_size_override_estimate(
    free: list[float],
) -> None:
    free.append(bytes_for(512, 512))
    tiles = TileSizer(None, CPU)
    for size in ((100, 100), (512, 512), (3000, 4000)):
        assert tiles.side_for(*size, Eval(tile=768)) == 768
        assert tiles.side_for(*size, Eval(tile=64)) == 64
    assert tiles.shrink(None, 512)
    assert tiles.side == 256
    assert tiles.side_for(100, 100, Eval()) == 256
    assert tiles.side_for(3000, 4000, Eval(tile=768)) == 256
    assert tiles.side_for(3000, 4000, Eval(tile=128)) == 128


def test_concurrent_failures_halve_tile_size_once(caplog: pytest.LogCaptureFixture) -> None:
    tiles = TileSizer(None, CPU)
    assert tiles.shrink(None, 600)
    assert tiles.side == 304
    assert tiles.shrink(None, 600)  # another thread with the same size
    assert tiles.side == 304
    assert tiles.shrink(304, 304)
    assert tiles.side == 152
    assert tiles.shrink(None, 600)  # a slow thread with the whole image
    assert tiles.side == 152
    assert tiles.shrink(152, 152)
    assert tiles.side == MIN_TILE
    assert not tiles.shrink(MIN_TILE, MIN_TILE)
    assert tiles.side == MIN_TILE
    assert not caplog.records
    for side in (304, 304, 152):
        tiles.warn_once(side)
    assert [record.args[0] for record in caplog.records] == [304, 152]
