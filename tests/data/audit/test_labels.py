from pathlib import Path

import pytest

from drn_cli.data.audit.labels import value_findings

PATH = Path("a.png")
LABEL_IDS = {1: 5, 3: 9, 7: 100, 23: 30, 33: 2}


def kinds(labels: list[dict[int, int]], classes: int | None) -> list[str]:
    named = [(Path(f"{n}.png"), pixels) for n, pixels in enumerate(labels)]
    return [finding.kind for finding in value_findings(named, classes)]


def test_label_ids_replace_the_findings_of_their_files_only() -> None:
    labels = [LABEL_IDS, {0: 4, 40: 1}, LABEL_IDS, LABEL_IDS | {255: 7}]
    assert kinds(labels, 19) == ["label-ids", "label-values"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([LABEL_IDS, {0: 1}], 19),  # no more than half
        ([LABEL_IDS], 21),  # not the classes of Cityscapes
        ([{7: 4, 21: 5, 33: 2}], 19),  # all have a train id in Cityscapes
        ([LABEL_IDS | {34: 1}], 19),  # not a label id
    ],
)
def test_other_values_are_not_label_ids(labels: list[dict[int, int]], classes: int) -> None:
    assert kinds(labels, classes) == ["label-values"]


def test_train_ids_are_not_label_ids() -> None:
    assert kinds([dict.fromkeys(range(19), 1) | {255: 3}] * 3, 19) == []


def test_many_values_are_abbreviated_in_the_message_only() -> None:
    pixels = dict.fromkeys(range(10), 2)
    (finding,) = value_findings([(PATH, pixels)], 3)
    assert (
        "has the values 3 (2 px), 4 (2 px), 5 (2 px), 4 more up to 9; labels are 0 to 2"
        in finding.message
    )
    assert finding.values == dict.fromkeys(range(3, 10), 2)


def test_first_value_above_the_classes_may_be_void() -> None:
    (finding,) = value_findings([(PATH, {0: 3, 11: 4})], 11)
    assert finding.hint == "if 11 means void, change it to 255"
    (finding,) = value_findings([(PATH, {0: 3, 12: 4})], 11)
    assert "void" not in str(finding.hint)


def test_negative_values_are_invalid() -> None:
    (finding,) = value_findings([(PATH, {-1: 3, 0: 4})], None)
    assert finding.values == {-1: 3}
