import json
from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.report.history import History, number, read_history, read_scores

from .folders import segmentation_val, train_line, whole_history, write_lines


def written(path: Path, lines: list[dict[str, object]], rest: str = "") -> History:
    write_lines(path / "metrics.jsonl", lines)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(rest)
    return read_history(path / "metrics.jsonl")


def test_a_whole_run(tmp_path: Path) -> None:
    history = written(tmp_path, whole_history())
    assert (len(history.train), len(history.val)) == (40, 4)
    assert (history.step, history.epoch, history.seconds) == (40, 4, 4000.5)
    assert history.loss == pytest.approx(10 / 45)
    assert history.end is not None
    assert history.unreadable == 0


def test_a_run_that_measured_nothing_yet(tmp_path: Path) -> None:
    history = read_history(tmp_path / "metrics.jsonl")
    assert history == History()
    assert (history.step, history.epoch, history.loss, history.seconds) == (0, 0, None, None)
    assert history.best("miou") is None


def test_half_a_last_line_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    history = written(tmp_path, [train_line(1)], '{"kind": "train", "step": 2, "ep')
    assert (history.step, history.unreadable) == (1, 0)
    # A line that only lacks its end may be half of a number.
    assert written(tmp_path, [train_line(1)], json.dumps(train_line(2))).step == 1


def test_lines_that_say_nothing_are_counted(tmp_path: Path) -> None:
    text = '\x00\x00\n[1]\n{"kind": "train"}\n' + json.dumps(train_line(3)) + "\n"
    history = written(tmp_path, [train_line(1)], text)
    assert [record["step"] for record in history.train] == [1, 3]
    assert history.unreadable == 3


def test_an_end_in_the_middle_is_no_end(tmp_path: Path) -> None:
    lines = whole_history("interrupted")
    assert written(tmp_path, lines).end is not None
    assert written(tmp_path, [*lines, train_line(41)]).end is None


def test_the_last_loss_is_the_last_that_was_finite(tmp_path: Path) -> None:
    lines = [train_line(1, loss=0.5), train_line(2, loss=None)]
    assert written(tmp_path, lines, '{"kind":"train","step":3,"loss":NaN}\n').loss == 0.5


def test_the_best_validation_is_the_first_of_equals(tmp_path: Path) -> None:
    lines = [segmentation_val(1, 0.3), segmentation_val(2, 0.4), segmentation_val(3, 0.4)]
    best = written(tmp_path, [*lines, segmentation_val(4, 0.1)]).best("miou")
    assert best is not None
    assert best["epoch"] == 2


@pytest.mark.parametrize("value", [None, True, "0.5", float("nan"), float("inf"), [1]])
def test_what_is_no_number(value: object) -> None:
    assert number({"x": value}, "x") is None
    assert number({"x": 0}, "x") == 0


def test_scores_are_those_of_best_json_or_of_the_best_line(tmp_path: Path) -> None:
    path, line = tmp_path / "best.json", segmentation_val(2, 0.4)
    assert read_scores(path, line) is line
    path.write_text('{"miou": 0.5}')
    assert read_scores(path, line) == {"miou": 0.5}
    for broken in ("[1]", '{"miou": 0.'):
        path.write_text(broken)
        with pytest.raises(DrnError, match=r"best\.json"):
            read_scores(path, line)
