from pathlib import Path

from drn_cli.report.facts import environment_section, recipe_section, throughput_section
from drn_cli.report.summary import summarise

from .folders import ENVIRONMENT, segmentation_recipe, train_line, whole_history, write_run


def test_the_environment_is_told_in_words() -> None:
    html = environment_section(ENVIRONMENT | {"gpu_count": 2, "empty": None})
    for name, value in (
        ("PyTorch", "2.15.0"),
        ("Memory of the GPU", "140.4 GiB"),
        ("Compiled", "yes"),
        ("Parameters", "11,179,074"),
        ("Seed", "0"),
        ("Command", "drn train easy.yaml &#x27;data.root=/data/my pictures&#x27;"),
        ("gpu_count", "2"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in html, name
    assert "Revision" not in html
    assert "empty" not in html
    assert f"<td>train_images.txt</td><td>{'0123456789abcdef' * 4}</td>" in html


def test_resumes_say_what_changed() -> None:
    html = environment_section(ENVIRONMENT)
    assert (
        "<tr><td>2026-01-31T13:00:00+00:00</td><td>20</td><td>1</td>"
        "<td>train.lr: 0.01 → 0.02</td><td>drn train --resume runs/easy</td></tr>"
    ) in html
    assert "Resumes" not in environment_section({"resumed": []})


def test_strange_values_are_shown_and_escaped() -> None:
    entry = {"at": "<now>", "changes": {"a": "<b>"}}
    strange = {"<i>": ["<u>"], "command": "drn train", "resumed": [entry, 3], "data": []}
    html = environment_section(strange)
    assert "&lt;i&gt;" in html
    assert "&lt;now&gt;" in html
    assert not {"<i>", "<u>", "<b>", "<now>"} & set(html.split('"'))
    assert "<u>" not in html
    assert "no environment.json" in environment_section({})


def test_the_throughput(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", segmentation_recipe(tmp_path), whole_history())
    html = throughput_section(summarise(run))
    for name, value in (
        ("Pictures a second, median", "101"),
        ("Time spent waiting for data, median", "2.0 %"),
        ("Memory of the GPU, highest", "6.0 GiB"),
        ("A validation, median", "2.5 s"),
        ("Steps", "40"),
        ("Wall time in all", "1 h 6 min"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in html, name


def test_the_throughput_of_an_older_run_is_what_it_measured(tmp_path: Path) -> None:
    line = {k: v for k, v in train_line(1).items() if k not in ("waiting", "memory")}
    run = write_run(tmp_path / "run", segmentation_recipe(tmp_path), [line])
    html = throughput_section(summarise(run))
    assert "Pictures a second" in html
    assert not any(word in html for word in ("waiting", "Memory", "validation", "Wall"))


def test_the_recipe_is_text() -> None:
    assert "a: &lt;script&gt;" in recipe_section("a: <script>")
