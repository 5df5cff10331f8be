"""What was measured earlier, beside what is measured now."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drn_cli.bench.cases import Case, Size
from drn_cli.bench.comparison import compare, read_earlier, to_json
from drn_cli.bench.measuring import Row
from drn_cli.bench.subject import Subject, resolve
from drn_cli.bench.timing import Times
from drn_cli.environment import MachineInfo, machine_info
from drn_cli.errors import DrnError

CASE = Case(
    what="forward", runtime="pytorch", precision="fp32", compiled=False, batch=1, size=Size(64, 32)
)
MACHINE = machine_info(torch.device("cpu"))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return resolve("drn_a_18", "segmentation", 5)


def row(seconds: float | None, **changes: object) -> Row:
    times = None
    if seconds is not None:
        times = Times(rounds=3, least=0.0, p50=seconds, p90=9.0, p99=9.0)
    return Row(case=replace(CASE, **changes), flops=1, activation_bytes=1, times=times)


def document(subject: Subject, *rows: Row, machine: MachineInfo = MACHINE) -> dict:
    return json.loads(json.dumps(to_json(subject, machine, rows)))


def written(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(value))
    return path


def test_rows_of_the_same_measurement_are_compared(subject: Subject, tmp_path: Path) -> None:
    others = {
        "what": "predict",
        "runtime": "eager",
        "precision": "bf16",
        "compiled": True,
        "batch": 2,
        "size": Size(32, 64),
        "workers": 3,
    }
    earlier = [row(7.0, **{name: value}) for name, value in others.items()]
    path = written(tmp_path, document(subject, *earlier, row(3.0)))
    found = compare(document(subject, row(2.0), row(None, batch=2)), read_earlier(path))
    one, two = found["results"]
    assert (one["earlier"], one["speed"]) == (3.0, 1.5)
    assert (two["earlier"], two["speed"]) == (7.0, None)
    assert found["differences"] == []
    alone = read_earlier(written(tmp_path, document(subject, *earlier)))
    (one,) = compare(document(subject, row(2.0)), alone)["results"]
    assert (one["earlier"], one["speed"]) == (None, None)


def test_rows_that_failed_earlier_count_as_none(subject: Subject, tmp_path: Path) -> None:
    earlier = read_earlier(written(tmp_path, document(subject, row(None))))
    (one,) = compare(document(subject, row(2.0)), earlier)["results"]
    assert one["earlier"] is None


def test_tells_what_else_differs(subject: Subject, tmp_path: Path) -> None:
    then = replace(MACHINE, device="Another CPU", torch="1.0", threads=MACHINE.threads + 1)
    path = written(tmp_path, document(resolve("drn_d_22"), row(1.0), machine=then))
    found = compare(document(subject, row(1.0)), read_earlier(path))
    assert found["differences"] == [
        "arch was drn_d_22, is drn_a_18",
        "classes was 19, is 5",
        f"device was Another CPU, is {MACHINE.device}",
        f"threads was {MACHINE.threads + 1}, is {MACHINE.threads}",
        f"torch was 1.0, is {MACHINE.torch}",
    ]


def test_refuses_other_documents(subject: Subject, tmp_path: Path) -> None:
    for other in ([], {"results": []}, {"format": "drn bench 0"}):
        with pytest.raises(DrnError, match="was not written by this `drn bench`"):
            read_earlier(written(tmp_path, other))
    damaged = document(subject, row(1.0))
    del damaged["results"][0]["batch"]
    with pytest.raises(DrnError, match="is damaged: 'batch'"):
        read_earlier(written(tmp_path, damaged))
    with pytest.raises(DrnError, match="no such file"):
        read_earlier(tmp_path / "none.json")


def test_machine_is_this_one() -> None:
    assert MACHINE.threads == torch.get_num_threads()
    assert MACHINE.device and MACHINE.cuda is None
    assert str(MACHINE).startswith(f"{MACHINE.device}, {MACHINE.cores} cores, threads: ")
    gpu = replace(MACHINE, device="NVIDIA X", cuda="13.0", cudnn="9")
    assert f"torch {torch.__version__}, CUDA 13.0, cuDNN 9, Python" in str(gpu)
