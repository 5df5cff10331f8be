import re
from dataclasses import replace
from html.parser import HTMLParser

from drn_cli.data.classes import ClassSet, generic
from drn_cli.report.gallery import Gallery
from drn_cli.report.gallery_page import gallery_section, no_gallery
from drn_cli.report.pictures import ClassifiedPicture, LocalizedPicture, SegmentedPicture

EVIL = "<script>\"'&"


def tags(html: str) -> set[str]:
    found: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.add(tag)

    Tags().feed(html)
    return found


def segmented(miou: float | None = 0.25, right: float | None = 0.5) -> SegmentedPicture:
    shares = ((EVIL, 0.75), ("b", 0.25))
    return SegmentedPicture(EVIL, (4, 3), b"p", b"l", b"q", b"e", shares, shares[1:], miou, right)


def localized(found: tuple[float, ...] | None = (2.5, 0.0, 9.0, 5.0)) -> LocalizedPicture:
    return LocalizedPicture(
        name=EVIL,
        size=(4, 3),
        picture=b"p",
        heat=b"h",
        whole=(40, 30),
        true=((EVIL, (1.0, 2.0, 10.0, 20.0)), (EVIL, (30.0, 0.0, 39.0, 29.0))),
        found=found,
        guess=(EVIL, 0.5),
        iou=0.25,
        is_right=False,
    )


def test_names_from_files_are_escaped() -> None:
    segmentation = Gallery(EVIL, ClassSet((EVIL, "b"), ((1, 2, 3), (4, 5, 6))), [segmented()])
    classified = ClassifiedPicture(EVIL, (4, 3), b"p", EVIL, ((EVIL, 0.5),), True)
    for html in (
        gallery_section(segmentation),
        gallery_section(Gallery(EVIL, None, [classified])),
        gallery_section(Gallery(EVIL, None, [localized()])),
        no_gallery(EVIL),
    ):
        assert "&lt;script&gt;" in html
        assert "script" not in tags(html)
        assert EVIL not in html


def test_pictures_are_described_in_words() -> None:
    pictures = [segmented(), segmented(None, None)]
    html = gallery_section(Gallery("Two of nine.", generic(2), pictures))
    assert "<p>Two of nine.</p>" in html
    assert "75 %, b 25 %" in html
    assert 'alt="Predicted: b 25 %"' in html
    assert 'alt="Errors: 50.0 % right"' in html
    assert 'alt="Errors: nothing to score"' in html
    assert "<span>mIoU 25.0 %, 50.0 % right</span>" in html
    assert "<span>nothing to score</span>" in html


def test_classes_of_one_colour_are_both_named_and_many_colours_are_folded() -> None:
    twins = ClassSet(("tree", "bush"), ((1, 2, 3), (1, 2, 3)))
    html = gallery_section(Gallery("", twins, [segmented()]))
    assert "tree or bush" in html
    assert '<details class="class-key" open>' in html
    many = gallery_section(Gallery("", generic(150), [segmented()]))
    assert '<details class="class-key">' in many


def test_boxes_lie_on_the_picture_in_its_own_pixels_and_hold_their_corners() -> None:
    html = gallery_section(Gallery("", None, [localized()]))
    assert 'viewBox="0 0 40 30" preserveAspectRatio="none"' in html
    numbers = 'x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"/>'
    assert re.findall(f'<rect class="over true" {numbers}', html) == [
        ("1.0", "2.0", "10.0", "19.0"),
        ("30.0", "0.0", "10.0", "30.0"),
    ]
    assert re.findall(f'<rect class="over found" {numbers}', html) == [("2.5", "0.0", "7.5", "6.0")]
    assert html.count("<rect") == 6  # each with a dark one under it
    assert html.index("<svg") > html.rindex("<img")


def test_a_picture_in_which_nothing_was_found_has_its_true_boxes_alone() -> None:
    html = gallery_section(Gallery("", None, [localized(None)]))
    assert "found" not in "".join(re.findall("<rect.*?>", html))
    assert html.count("<rect") == 4


def test_boxes_of_several_classes_are_named_and_those_of_one_are_not() -> None:
    one = localized()
    several = replace(one, true=(one.true[0], ("cat", one.true[1][1])))
    html = gallery_section(Gallery("", None, [several]))
    assert re.findall('<text x="(.*?)" y="(.*?)" .*?>(.*?)</text>', html)[1] == (
        "30.0",
        "0.0",
        "cat",
    )
    assert html.count("<text") == 2
    assert "<text" not in gallery_section(Gallery("", None, [one]))


def test_the_worst_and_the_best_have_headings_of_their_own() -> None:
    gallery = Gallery("", generic(2), [segmented(0.1), segmented(0.2), segmented(0.3)], best_from=2)
    parts = re.split("<h3>(.*?)</h3>", gallery_section(gallery))
    assert [parts[1], parts[3]] == ["The worst", "The best"]
    assert [part.count("<figure>") for part in (parts[0], parts[2], parts[4])] == [0, 2, 1]
    assert "<h3>" not in gallery_section(replace(gallery, best_from=None))


def test_where_there_are_only_maps_none_is_called_a_picture() -> None:
    gallery = Gallery("", generic(2), [segmented()])
    assert 'id="show-picture" value="picture" checked' in gallery_section(gallery)
    maps = gallery_section(replace(gallery, has_pictures=False))
    assert "show-picture" not in maps
    assert 'id="show-prediction" value="prediction" checked' in maps


def test_a_box_is_counted_in_words() -> None:
    two = localized()
    one = replace(two, true=two.true[:1])
    assert "1 true box," in gallery_section(Gallery("", None, [one]))
    assert "2 true boxes," in gallery_section(Gallery("", None, [two]))
