import json

import pytest

from drn_cli.errors import DrnError
from drn_cli.training.metrics import MetricsLogger


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_an_object_with_kind_and_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLogger(path, enabled=True)
    log.write("train", step=10, loss=0.5)
    log.write("val", step=20, miou=0.25, iou={"car": None})
    assert read(path) == [
        {"kind": "train", "step": 10, "loss": 0.5},
        {"kind": "val", "step": 20, "miou": 0.25, "iou": {"car": None}},
    ]


def test_only_rank_0_writes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLogger(path, enabled=True).write("train", step=1)
    before = path.read_bytes()
    other = MetricsLogger(path, enabled=False)
    other.write("train", step=2)
    other.keep_until(0)
    assert path.read_bytes() == before


def test_keep_until_drops_later_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLogger(path, enabled=True)
    for step in (10, 20, 20, 30):
        log.write("train", step=step)
    log.keep_until(20)
    assert [record["step"] for record in read(path)] == [10, 20, 20]
    log.write("train", step=30)
    assert [record["step"] for record in read(path)] == [10, 20, 20, 30]


def test_keep_until_drops_an_incomplete_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 10}\n{"kind": "tra')
    MetricsLogger(path, enabled=True).keep_until(100)
    assert read(path) == [{"kind": "train", "step": 10}]


def test_keep_until_without_a_file(tmp_path):
    MetricsLogger(tmp_path / "metrics.jsonl", enabled=True).keep_until(3)
    assert list(tmp_path.iterdir()) == []


def test_keep_until_drops_the_end(tmp_path):
    log = MetricsLogger(tmp_path / "metrics.jsonl", enabled=True)
    log.write("train", step=10)
    log.write("end", step=10, ending="interrupted")
    log.keep_until(10)
    assert read(tmp_path / "metrics.jsonl") == [{"kind": "train", "step": 10}]


@pytest.mark.parametrize(("validated", "kept"), [(True, 2), (False, 1)])
def test_keep_until_drops_a_validation_that_is_repeated(tmp_path, validated, kept):
    log = MetricsLogger(tmp_path / "metrics.jsonl", enabled=True)
    log.write("train", step=10)
    log.write("val", step=10)
    log.keep_until(10, validated=validated)
    assert len(read(tmp_path / "metrics.jsonl")) == kept


def test_unwritable_metrics_are_an_error(tmp_path):
    with pytest.raises(DrnError, match=r"metrics\.jsonl: cannot be written: No such file"):
        MetricsLogger(tmp_path / "gone" / "metrics.jsonl", enabled=True).write("train", step=1)


def test_refuses_to_write_through_a_symbolic_link(tmp_path):
    (tmp_path / "precious").write_text("precious\n")
    (tmp_path / "metrics.jsonl").symlink_to("precious")
    log = MetricsLogger(tmp_path / "metrics.jsonl", enabled=True)
    for write in (lambda: log.write("train", step=1), log.sync):
        with pytest.raises(DrnError, match=r"metrics\.jsonl: is a symbolic link") as caught:
            write()
        assert "drn train --resume" in caught.value.hint
    log.keep_until(0)  # which replaces the link
    assert (tmp_path / "precious").read_text() == "precious\n"


@pytest.mark.parametrize("line", ["[" * 50_000, '{"step": ' + "1" * 5_000 + "}", "\udcff", "7"])
def test_a_broken_line_is_dropped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "train", "step": 10}\n'
    path.write_text(f"{good}{line}\n", errors="surrogateescape")
    MetricsLogger(path, enabled=True).keep_until(100)
    assert path.read_text() == good
