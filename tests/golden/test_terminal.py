"""Tables that commands print fit a terminal of 80 columns."""

import re

import pytest
import yaml

from .test_golden import HERE

COLUMNS = 80
BETWEEN = re.compile(r"\S {2,}\S")  # columns of a table


@pytest.mark.parametrize("path", sorted(HERE.glob("*.yaml")), ids=lambda path: path.stem)
def test_tables_fit(path):
    recorded = yaml.load(path.read_text(), yaml.CSafeLoader)
    wide = [
        f"{case['name']}: {line}"
        for case in recorded
        for line in case.get("stdout", "").splitlines()
        if len(line) > COLUMNS and BETWEEN.search(line)
    ]
    assert not wide, "\n".join(wide)
