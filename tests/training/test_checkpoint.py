import re
from pathlib import Path

import pytest
import torch
from torch import nn

from drn_cli.errors import DrnError
from drn_cli.training.checkpoint import Progress, load_checkpoint, save_checkpoint

PROGRESS = Progress(3, 2, 17, 0.25, 1.5, 100)


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


def optimiser_of(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def learned(steps: int = 2) -> tuple[nn.Module, torch.optim.SGD]:
    model = network()
    optimiser = optimiser_of(model)
    for _ in range(steps):
        model(torch.randn(2, 3, 5, 5)).square().mean().backward()
        optimiser.step()
    return model, optimiser


@pytest.fixture
def saved(tmp_path):
    model, optimiser = learned()
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, model, optimiser, PROGRESS, {"arch": "drn_d_22"})
    return path, model, optimiser


def test_round_trip(saved):
    path, model, optimiser = saved
    other = network()
    other_optimiser = optimiser_of(other)
    assert load_checkpoint(path, other, other_optimiser) == PROGRESS
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    found, expected = other_optimiser.state_dict(), optimiser.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys() and found["state"]
    for number, state in expected["state"].items():
        assert torch.equal(found["state"][number]["momentum_buffer"], state["momentum_buffer"])


def test_is_plain_data(saved):
    content = torch.load(saved[0], weights_only=True)
    assert content["arch"] == "drn_d_22"
    assert content["progress"]["steps"] == 17


def test_replaces_the_earlier_one_whole(saved):
    path = saved[0]
    before = path.read_bytes()
    model, optimiser = learned(1)
    with pytest.raises(AttributeError):  # a failure on the way
        save_checkpoint(path, nn.Module(), None, PROGRESS, {})  # type: ignore[arg-type]
    assert path.read_bytes() == before
    save_checkpoint(path, model, optimiser, Progress(), {})
    assert load_checkpoint(path, network(), optimiser_of(network())) == Progress()
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pt"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def spoil(kind: str, path: Path) -> None:
    content = path.read_bytes()
    match kind:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "noise":
            path.write_bytes(bytes(range(256)) * 8)
        case "text":
            path.write_text("not a checkpoint")
        case "weights only":
            torch.save(network().state_dict(), path)
        case "a list":
            torch.save([1, 2], path)
        case "newer format":
            torch.save(torch.load(path, weights_only=True) | {"training_format": 99}, path)
        case "no progress":
            good = torch.load(path, weights_only=True)
            torch.save({key: good[key] for key in good if key != "progress"}, path)
        case "program":
            torch.save({"training_format": 1, "model": Evil()}, path)
        case "folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "cut",
        "noise",
        "text",
        "weights only",
        "a list",
        "newer format",
        "no progress",
        "program",
        "folder",
    ],
)
def test_what_is_no_checkpoint_is_an_error_with_its_name(saved, kind, capsys):
    path = saved[0]
    spoil(kind, path)
    model = network()
    with pytest.raises(DrnError, match=re.escape(str(path))) as caught:
        load_checkpoint(path, model, optimiser_of(model))
    assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_another_network_is_an_error(saved):
    path, _, _ = saved
    other = network(5)
    with pytest.raises(DrnError, match=r"does not fit this run: .*size mismatch"):
        load_checkpoint(path, other, optimiser_of(other))
