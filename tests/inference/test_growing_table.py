import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.inference.growing_table import ResumableCsv

HEADER = ["image", "class_1", "probability_1"]
ORDER = ["a.png", "b.png", "c.png", "d.png"]


def row(image: str, share: str = "0.5") -> list[str]:
    return [image, "cat", share]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "classes.csv"


Begin = Callable[..., ResumableCsv]


@pytest.fixture
def begun(path: Path) -> Iterator[Begin]:
    """Begin tables, and end those that a test leaves open like a killed process."""
    tables = []

    def begin(
        rank: int = 0, *, resume: bool = False, header: Sequence[str] = HEADER, path: Path = path
    ) -> ResumableCsv:
        table = ResumableCsv(path, header, rank, resume=resume)
        table.begin()
        tables.append(table)
        return table

    yield begin
    for table in tables:
        table.end()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def others(path: Path) -> list[str]:
    """Return the names of all files beside the table."""
    return sorted(one.name for one in path.parent.iterdir() if one != path)


def test_finish_writes_rows_in_order(path: Path, begun: Begin) -> None:
    table = begun()
    for image in ("c.png", "a.png", "d.png", "b.png"):
        table.add(row(image))
        assert not path.exists()  # no incomplete file
    table.end()
    table.finish(ORDER)
    assert lines(path) == [
        "image,class_1,probability_1",
        "a.png,cat,0.5",
        "b.png,cat,0.5",
        "c.png,cat,0.5",
        "d.png,cat,0.5",
    ]
    assert others(path) == []


def test_missing_rows_are_skipped(path: Path, begun: Begin) -> None:
    table = begun()
    table.add(row("c.png"))
    table.end()
    table.finish(ORDER)
    assert [line.split(",")[0] for line in lines(path)] == ["image", "c.png"]


def test_empty_table_has_header(path: Path, begun: Begin) -> None:
    table = begun()
    table.end()
    table.finish(ORDER)
    assert lines(path) == [",".join(HEADER)]


NAMES = ["with,comma.png", 'with"quote.png', "with\nnewline.png", "größe.png", "two\u2028lines.png"]


@pytest.mark.parametrize("name", NAMES)
def test_names_survive_round_trip(path: Path, begun: Begin, name: str) -> None:
    table = begun()
    table.add(row(name))
    assert begun(1, resume=True).known == {name}
    table.end()
    table.finish([name])
    assert ResumableCsv(path, HEADER, 0, resume=True).known == {name}


KILLED = """
import os, signal, sys
from pathlib import Path
from drn_cli.inference.growing_table import ResumableCsv
table = ResumableCsv(Path(sys.argv[1]), sys.argv[2].split(","), 0, resume=False)
table.begin()
for image in ("a.png", "b.png", "c.png"):
    table.add((image, "cat", "0.5"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The part file of a process killed while it writes the third row."""
    path = tmp_path_factory.mktemp("killed") / "classes.csv"
    command = [sys.executable, "-c", KILLED, str(path), ",".join(HEADER)]
    assert subprocess.run(command, check=False).returncode == -9
    (part,) = path.parent.iterdir()
    assert part.name == ".classes.csv.0.part"
    content = part.read_bytes()
    assert content.count(b"\n") == 3  # each row is flushed
    return content.removesuffix(b"t,0.5\n")


def leave(path: Path, content: bytes, rank: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / f".{path.name}.{rank}.part").write_bytes(content)


def test_resumes_after_sigkill(path: Path, begun: Begin, killed: bytes) -> None:
    leave(path, killed)
    table = begun(resume=True)
    assert table.known == {"a.png", "b.png"}
    for image in ("c.png", "d.png"):
        table.add(row(image, "0.25"))
    table.end()
    table.finish(ORDER)
    assert lines(path)[1:] == [
        "a.png,cat,0.5",
        "b.png,cat,0.5",
        "c.png,cat,0.25",
        "d.png,cat,0.25",
    ]
    assert others(path) == []


def test_incomplete_line_is_truncated(path: Path, begun: Begin, killed: bytes) -> None:
    """Otherwise the next row would continue the incomplete one."""
    leave(path, killed)
    begun(resume=True).add(row("d.png"))
    assert ResumableCsv(path, HEADER, 0, resume=True).known == {"a.png", "b.png", "d.png"}


@pytest.mark.parametrize("cut", range(8))
def test_incomplete_utf8_is_truncated(path: Path, begun: Begin, cut: int) -> None:
    leave(path, ("a.png,cat,0.5\n" + "größe").encode()[: 14 + cut])
    assert begun(resume=True).known == {"a.png"}


def test_part_is_discarded_without_resume(path: Path, begun: Begin, killed: bytes) -> None:
    leave(path, killed)
    table = begun()
    assert table.known == set()
    table.add(row("c.png"))
    table.end()
    table.finish(ORDER)
    assert lines(path)[1:] == ["c.png,cat,0.5"]


def test_parts_of_other_ranks_are_discarded_without_resume(
    path: Path, begun: Begin, killed: bytes
) -> None:
    leave(path, killed.replace(b"0.5", b"0.125"), rank=1)
    table = begun()
    table.add(row("b.png"))
    table.end()
    table.finish(ORDER)
    assert lines(path)[1:] == ["b.png,cat,0.5"]
    assert others(path) == []


def finished(path: Path, *images: str) -> None:
    table = ResumableCsv(path, HEADER, 0, resume=False)
    table.begin()
    for image in images:
        table.add(row(image))
    table.end()
    table.finish(images)


def test_resumes_finished_table(path: Path, begun: Begin) -> None:
    finished(path, "b.png", "x.png")
    table = begun(resume=True)
    assert table.known == {"b.png", "x.png"}
    table.add(row("a.png"))
    assert len(lines(path)) == 3  # it stays as it was until the new one is whole
    table.end()
    table.finish(ORDER)
    # What is not asked for now is kept, at the end.
    assert [line.split(",")[0] for line in lines(path)[1:]] == ["a.png", "b.png", "x.png"]


def test_resumes_from_table_and_part(path: Path, begun: Begin, killed: bytes) -> None:
    finished(path, "d.png", "a.png")
    leave(path, killed.replace(b"0.5", b"0.75"))
    table = begun(resume=True)
    assert table.known == {"a.png", "b.png", "d.png"}
    table.end()
    table.finish(ORDER)
    # The part is the newer one.
    assert lines(path)[1:] == ["a.png,cat,0.75", "b.png,cat,0.75", "d.png,cat,0.5"]


def test_finished_table_is_replaced_without_resume(path: Path) -> None:
    finished(path, "a.png", "b.png")
    finished(path, "c.png")
    assert [line.split(",")[0] for line in lines(path)] == ["image", "c.png"]


OTHER = ["image", "class_1", "probability_1", "class_2", "probability_2"]


def test_table_with_other_columns_is_refused(path: Path) -> None:
    finished(path, "a.png")
    before = path.read_bytes()
    with pytest.raises(DrnError, match=r"classes\.csv: columns differ from image,") as caught:
        ResumableCsv(path, OTHER, 0, resume=True)
    assert "--skip-existing" in str(caught.value.hint)
    assert path.read_bytes() == before


def test_part_with_other_columns_is_ignored(path: Path, begun: Begin, killed: bytes) -> None:
    leave(path, killed)
    table = begun(resume=True, header=OTHER)
    assert table.known == set()
    table.end()
    table.finish(ORDER)
    assert lines(path) == [",".join(OTHER)]


def test_binary_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DrnError, match=r"classes\.csv: cannot be read"):
        ResumableCsv(path, HEADER, 0, resume=True)


def test_unwritable_folder_is_an_error(tmp_path: Path, begun: Begin) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DrnError, match=r"\.part: cannot be written"):
        begun(path=tmp_path / "out" / "classes.csv")


def test_parts_of_all_ranks_are_merged(path: Path, begun: Begin) -> None:
    tables = [begun(rank) for rank in range(3)]
    for number, image in enumerate(["d.png", "b.png", "c.png", "a.png"]):
        tables[number % 3].add(row(image, str(number % 3)))
    assert len(others(path)) == 3
    for table in tables:
        table.end()
    tables[0].finish(ORDER)
    assert lines(path)[1:] == ["a.png,cat,0", "b.png,cat,1", "c.png,cat,2", "d.png,cat,0"]
    assert others(path) == []


@pytest.mark.parametrize("world", [1, 2, 3])
def test_resumes_with_another_world_size(path: Path, killed: bytes, world: int) -> None:
    leave(path, killed, 0)
    leave(path, b"d.png,cat,0.5\nc.p", 1)
    tables = [ResumableCsv(path, HEADER, rank, resume=True) for rank in range(world)]
    assert all(table.known == {"a.png", "b.png", "d.png"} for table in tables)
    for table in tables:
        table.begin()
    tables[-1].add(row("c.png"))
    for table in tables:
        table.end()
    tables[0].finish(ORDER)
    assert lines(path)[1:] == [f"{image},cat,0.5" for image in ORDER]
    assert others(path) == []


def test_parts_of_other_tables_are_kept(path: Path, begun: Begin, killed: bytes) -> None:
    leave(path.with_name("other.csv"), killed)
    table = begun(resume=True)
    assert table.known == set()
    table.end()
    table.finish(ORDER)
    assert others(path) == [".other.csv.0.part"]


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "no_ending", "two.dots.csv"])
def test_unusual_file_names(path: Path, name: str) -> None:
    finished(path.with_name(name), "a.png")
    assert lines(path.with_name(name))[1:] == ["a.png,cat,0.5"]
    assert others(path.with_name(name)) == []


def test_longest_file_name(tmp_path: Path, begun: Begin) -> None:
    path = tmp_path / ("n" * 251 + ".csv")
    for rank in (0, 10):
        begun(rank, path=path).add(row(f"{rank}.png"))
    begun(0, path=path, resume=True).finish(["0.png", "10.png"])
    assert [line.split(",")[0] for line in path.read_text().splitlines()[1:]] == ["0.png", "10.png"]
    assert list(tmp_path.iterdir()) == [path]
