from html.parser import HTMLParser

from drn_cli.data.classes import ClassSet, generic
from drn_cli.report.gallery import ClassifiedPicture, Gallery, SegmentedPicture
from drn_cli.report.gallery_page import gallery_section, no_gallery

EVIL = "<script>\"'&"


def tags(html: str) -> set[str]:
    found: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.add(tag)

    Tags().feed(html)
    return found


def segmented(right: float | None = 0.5) -> SegmentedPicture:
    shares = ((EVIL, 0.75), ("b", 0.25))
    return SegmentedPicture(EVIL, (4, 3), b"p", b"l", b"q", b"e", shares, shares[1:], right)


def test_names_from_files_are_escaped() -> None:
    segmentation = Gallery(1, ClassSet((EVIL, "b"), ((1, 2, 3), (4, 5, 6))), [segmented()])
    classified = ClassifiedPicture(EVIL, (4, 3), b"p", EVIL, ((EVIL, 0.5),), True)
    for html in (
        gallery_section(segmentation),
        gallery_section(Gallery(1, None, [classified])),
        no_gallery(EVIL),
    ):
        assert "&lt;script&gt;" in html
        assert "script" not in tags(html)


def test_pictures_are_described_in_words() -> None:
    html = gallery_section(Gallery(9, generic(2), [segmented(), segmented(None)]))
    assert "2, evenly spaced, of the 9 validation pictures" in html
    assert "75 %, b 25 %" in html
    assert 'alt="Predicted: b 25 %"' in html
    assert 'alt="Errors: 50.0 % right"' in html
    assert 'alt="Errors: nothing to score"' in html


def test_classes_of_one_colour_are_both_named_and_many_colours_are_folded() -> None:
    twins = ClassSet(("tree", "bush"), ((1, 2, 3), (1, 2, 3)))
    html = gallery_section(Gallery(1, twins, [segmented()]))
    assert "tree or bush" in html
    assert '<details class="class-key" open>' in html
    assert '<details class="class-key">' in gallery_section(Gallery(1, generic(150), [segmented()]))
