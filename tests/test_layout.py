"""Size and vocabulary of the source tree: limits that keep the next change from drifting.

`python tests/test_layout.py [PATH ...]` prints the numbers, or the words to replace below paths.
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 500  # lines; aim at 400
TESTS_PER_LINE = 1.25  # lines of test for a line of code

# Patterns of words that are not terms of the field, and what to write instead. "picture" counts
# inside identifiers too.
WORDS = {
    r"picture": "image",
    r"\btold\b|(?<![a-z])told_|_told(?![a-z])": "metadata",
    r"\banew\b": "again",
    r"\baloud\b": "verbose",
    r"\balike\b": "equal, or both",
    r"\bat hand\b": "available, or cached",
    r"\bheed(?:s|ed)?\b|\bheard of\b": "use, known",
    r"\b(?:whoever|somebody|nobody)\b": "the noun",
    r"\bso often\b|\bsuch as these\b|\bleaves the house\b|\bis there already\b": "plain words",
    r'"""(?:Give|Say|Tell|See that|Look at)\b': "Return, Report, Whether, Check that",
}
# Public names that hold such a word. They are read by files and programs of users, and stay.
PUBLIC_NAMES = {
    "train_pictures": "metadata of a run and its exports: number of training images",
    "val_pictures": "metadata of a run and its exports: number of validation images",
    '"pictures"': "name of the input in exports of version 0.1.0, which can still be read",
    "--pictures": "option of version 0.1.0, named in the CHANGELOG",
    "`pictures`": "name of the input in exports of version 0.1.0, named in the CHANGELOG",
    "`pictures_per_second`": "JSON key of version 0.1.0, named in the CHANGELOG",
}
OLD_FILES = "tests/old_version"  # files of version 0.1.0, as it wrote them
TEXT = {".py", ".md", ".yaml", ".toml", ".j2", ".html", ".css", ".js", ".json", ".csv", ""}


def tracked() -> list[Path]:
    """Return the files under version control that hold text written here, but this one."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a checkout: git lists no files here")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [
        path
        for path in files
        if path.suffix in TEXT
        and path.is_file()
        and path != Path(__file__).resolve()
        and not path.is_relative_to(ROOT / OLD_FILES)
    ]


def length(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def lines_in(folder: str) -> int:
    return sum(length(path) for path in (ROOT / folder).rglob("*.py"))


def words_to_replace(text: str) -> list[tuple[int, str, str]]:
    """Return (line number, word, replacement) of each word to replace outside public names."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        rest = re.sub(rf"(?<!\w)(?:{'|'.join(PUBLIC_NAMES)})(?!\w)", "", line)
        for pattern, instead in WORDS.items():
            found += [
                (number, match.group(), instead)
                for match in re.finditer(pattern, rest, re.IGNORECASE)
            ]
    return found


def test_no_file_is_too_long():
    long = {
        str(path.relative_to(ROOT)): length(path)
        for path in tracked()
        if path.suffix == ".py" and length(path) > LONGEST_FILE
    }
    assert not long, f"more than {LONGEST_FILE} lines: {long}"


def test_tests_are_in_proportion():
    code, tests = lines_in("drn_cli"), lines_in("tests")
    assert tests <= TESTS_PER_LINE * code, f"{tests} lines of tests for {code} lines of code"


def words_in_files() -> list[str]:
    """Return `file:line: word (replacement)` of each word to replace in the whole tree."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {word!r} (write: {instead})"
        for path in tracked()
        for number, word, instead in words_to_replace(path.read_text(encoding="utf-8"))
    ]


def test_vocabulary():
    found = words_in_files()
    assert not found, "\n".join([f"{len(found)} words to replace", *found])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TrainingPictures = 1", ["Picture"]),
        ('"""Give the class ids."""', ['"""Give']),
        ("as told by the file", ["told"]),
        ('{"train_pictures": 3}', []),
        ("a threshold, untold", []),
        ("Return the image.", []),
    ],
)
def test_words_are_found(text, words):
    assert [word for _, word, _ in words_to_replace(text)] == words


def main() -> None:
    if paths := tuple(sys.argv[1:]):
        print("\n".join(line for line in words_in_files() if line.startswith(paths)))
        return
    code, tests = lines_in("drn_cli"), lines_in("tests")
    print(f"drn_cli: {code} lines; tests: {tests} lines, {tests / code:.2f} for a line of code")
    lengths = sorted(((length(p), p) for p in tracked() if p.suffix == ".py"), reverse=True)
    print("longest files:", ", ".join(f"{p.relative_to(ROOT)} {n}" for n, p in lengths[:8]))
    words = Counter(str(Path(line.split(":")[0]).parent) for line in words_in_files())
    print("words to replace:", dict(words.most_common()) or "none")


if __name__ == "__main__":
    main()
