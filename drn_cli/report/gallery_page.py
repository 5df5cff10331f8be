"""The gallery of validation pictures as HTML: one switch for all of them, and what they are."""

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from drn_cli.data.classes import ClassSet
from drn_cli.report.class_scores import swatch
from drn_cli.report.gallery import Gallery
from drn_cli.report.pictures import ClassifiedPicture, LocalizedPicture, SegmentedPicture
from drn_cli.report.words import percent

LETTERS = 28  # that go beside each other along a picture with boxes
MOST_COLOURS = 40  # of which the names are shown unasked


def _switch(*modes: str) -> str:
    """Let a reader choose what all pictures show; the first is shown unasked."""
    buttons = "".join(
        f'<label><input type="radio" name="shown" id="show-{mode}" value="{mode}"'
        f"{' checked' if mode == modes[0] else ''}><span>{mode}</span></label>"
        for mode in modes
    )
    return f'<fieldset class="switch"><legend>Show</legend>{buttons}</fieldset>'


SWITCH = _switch("picture", "label", "prediction", "error")
MAP_SWITCH = _switch("prediction", "label", "error")
HEAT_SWITCH = _switch("picture", "heat")
ERROR_KEY = (
    '<ul class="key error-key"><li><span class="swatch wrong"></span>striped and bright: wrong</li>'
    '<li><span class="swatch dimmed"></span>dimmed: right</li>'
    '<li><span class="swatch void"></span>grey: void, not scored</li></ul>'
)
BOX_KEY = (
    '<ul class="key"><li><span class="swatch true"></span>dashed: true</li>'
    '<li><span class="swatch found"></span>solid: found</li></ul>'
)


def gallery_section(gallery: Gallery) -> str:
    """Show the pictures, under a heading that says how they were chosen."""
    intro = f"<p>{escape(gallery.intro)}</p>"
    shots = _shots(gallery)
    if isinstance(gallery.pictures[0], LocalizedPicture):
        return (
            f"{_open('localised')}{intro}{HEAT_SWITCH}{BOX_KEY}"
            f'<div class="shots">{shots}</div></section>'
        )
    if gallery.class_set is None:
        return f'{_open("classified")}{intro}<div class="shots">{shots}</div></section>'
    classes = escape(json.dumps(_by_colour(gallery.class_set)))
    return (
        f"{_open('segmented')}{intro}{SWITCH if gallery.has_pictures else MAP_SWITCH}"
        f"{ERROR_KEY}{_legend(gallery.class_set)}"
        f'<div class="shots" data-classes="{classes}">{shots}</div></section>'
    )


def _shots(gallery: Gallery) -> str:
    """Show the pictures; where the worst come first, say where the best begin."""
    shots = list(map(_shot, gallery.pictures))
    if gallery.best_from is not None:
        shots.insert(gallery.best_from, "<h3>The best</h3>")
        shots.insert(0, "<h3>The worst</h3>")
    return "".join(shots)


def no_gallery(reason: str) -> str:
    """Say why there are no pictures."""
    return f"{_open('none')}<p>No pictures: {escape(reason)}</p></section>"


def _open(kind: str) -> str:
    return f'<section id="pictures" class="gallery {kind}"><h2>Pictures</h2>'


def _shot(picture: SegmentedPicture | ClassifiedPicture | LocalizedPicture) -> str:
    if isinstance(picture, SegmentedPicture):
        return _segmented(picture)
    return _classified(picture) if isinstance(picture, ClassifiedPicture) else _localized(picture)


def _segmented(picture: SegmentedPicture) -> str:
    right = miou = "nothing to score"
    if picture.right is not None and picture.miou is not None:
        right, miou = f"{percent(picture.right)} right", f"mIoU {percent(picture.miou)}"
    name = escape(picture.name)
    layers = (
        ("picture", "jpeg", picture.picture, picture.name),
        ("label", "png", picture.label, f"Label: {_shares(picture.label_classes)}"),
        (
            "prediction",
            "png",
            picture.prediction,
            f"Predicted: {_shares(picture.predicted_classes)}",
        ),
        ("error", "png", picture.error, f"Errors: {right}"),
    )
    images = "".join(
        _image(kind, encoding, content, alt, picture.size)
        for kind, encoding, content, alt in layers
    )
    return (
        f'<figure><div class="frame">{images}<output class="pixel"></output></div>'
        f'<figcaption><span class="name">{name}</span> '
        f"<span>{miou if right == miou else f'{miou}, {right}'}</span></figcaption></figure>"
    )


def _classified(picture: ClassifiedPicture) -> str:
    verdict = "✓ right" if picture.is_right else "✗ wrong"
    guesses = "".join(
        f"<dd>{escape(name)} {percent(share, 0)}</dd>" for name, share in picture.guesses
    )
    image = _image(
        "picture", "jpeg", picture.picture, f"A picture of: {picture.truth}", picture.size
    )
    return (
        f'<figure class="{"right" if picture.is_right else "wrong"}">'
        f'<div class="frame">{image}</div><figcaption>'
        f'<strong class="verdict">{verdict}</strong>'
        f"<dl><dt>true</dt><dd>{escape(picture.truth)}</dd>"
        f"<dt>predicted</dt>{guesses}</dl>"
        f'<span class="name">{escape(picture.name)}</span></figcaption></figure>'
    )


def _localized(picture: LocalizedPicture) -> str:
    verdict = "✓ right" if picture.is_right else "✗ wrong"
    name, share = picture.guess
    width, height = picture.whole
    boxes = "".join(_rectangle("true", box) for _, box in picture.true)
    if picture.found is not None:
        boxes += _rectangle("found", picture.found)
    names = list(dict.fromkeys(of for of, _ in picture.true))
    if len(names) > 1:
        boxes += "".join(
            f'<text x="{box[0]:.1f}" y="{box[1]:.1f}" dx="0.3em" dy="1.1em" '
            f'font-size="{max(picture.whole) / LETTERS:.1f}">{escape(of)}</text>'
            for of, box in picture.true
        )
    truth, count = ", ".join(names), len(picture.true)
    said = (
        f"{truth}: {count} true box{'' if count == 1 else 'es'}, overlap {percent(picture.iou, 0)}"
    )
    images = _image("picture", "jpeg", picture.picture, picture.name, picture.size) + _image(
        "heat", "jpeg", picture.heat, f"Activation of {name}", picture.size
    )
    return (
        f'<figure class="{"right" if picture.is_right else "wrong"}"><div class="frame">{images}'
        f'<svg class="boxes" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(said)}">{boxes}</svg></div><figcaption>'
        f'<strong class="verdict">{verdict}</strong> <span>overlap {percent(picture.iou, 0)}</span>'
        f"<dl><dt>true</dt><dd>{escape(truth)}</dd>"
        f"<dt>predicted</dt><dd>{escape(name)} {percent(share, 0)}</dd></dl>"
        f'<span class="name">{escape(picture.name)}</span></figcaption></figure>'
    )


def _rectangle(kind: str, box: Sequence[float]) -> str:
    """Draw a box twice, so that it is seen on whatever is behind; its last pixels are inside."""
    xmin, ymin, xmax, ymax = box
    return "".join(
        f'<rect class="{layer} {kind}" x="{xmin:.1f}" y="{ymin:.1f}" '
        f'width="{xmax - xmin + 1:.1f}" height="{ymax - ymin + 1:.1f}"/>'
        for layer in ("under", "over")
    )


def _image(kind: str, encoding: str, content: bytes, alt: str, size: tuple[int, int]) -> str:
    source = f"data:image/{encoding};base64,{b64encode(content).decode()}"
    return (
        f'<img class="{kind}" src="{source}" alt="{escape(alt)}" '
        f'width="{size[0]}" height="{size[1]}">'
    )


def _shares(classes: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {percent(share, 0)}" for name, share in classes) or "all void"


def _by_colour(class_set: ClassSet) -> dict[str, str]:
    """Give the names by their colour, for a script; classes of one colour share an entry."""
    names: dict[str, str] = {}
    for name, colour in zip(class_set.names, class_set.colours, strict=True):
        key = ",".join(map(str, colour))
        names[key] = f"{names[key]} or {name}" if key in names else name
    return names


def _legend(class_set: ClassSet) -> str:
    entries = "".join(
        f"<li>{swatch(colour)}{escape(name)}</li>"
        for name, colour in zip(class_set.names, class_set.colours, strict=True)
    )
    opened = " open" if len(class_set) <= MOST_COLOURS else ""
    return (
        f'<details class="class-key"{opened}><summary>Colours of the classes</summary>'
        f'<ul class="key">{entries}<li><span class="swatch striped"></span>void</li></ul></details>'
    )
