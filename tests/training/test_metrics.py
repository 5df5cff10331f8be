import json

from drn_cli.training.metrics import MetricsLog


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_an_object_with_kind_and_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, first=True)
    log.write("train", step=10, loss=0.5)
    log.write("val", step=20, miou=0.25, iou={"car": None})
    assert read(path) == [
        {"kind": "train", "step": 10, "loss": 0.5},
        {"kind": "val", "step": 20, "miou": 0.25, "iou": {"car": None}},
    ]


def test_only_the_first_process_writes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, first=True).write("train", step=1)
    before = path.read_bytes()
    other = MetricsLog(path, first=False)
    other.write("train", step=2)
    other.keep_until(0)
    assert path.read_bytes() == before


def test_keep_until_drops_what_comes_later(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, first=True)
    for step in (10, 20, 20, 30):
        log.write("train", step=step)
    log.keep_until(20)
    assert [record["step"] for record in read(path)] == [10, 20, 20]
    log.write("train", step=30)
    assert [record["step"] for record in read(path)] == [10, 20, 20, 30]


def test_keep_until_drops_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 10}\n{"kind": "tra')
    MetricsLog(path, first=True).keep_until(100)
    assert read(path) == [{"kind": "train", "step": 10}]


def test_keep_until_without_a_file(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", first=True).keep_until(3)
    assert list(tmp_path.iterdir()) == []
