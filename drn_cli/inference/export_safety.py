"""Checks of exported files before their runtime reads them: checksums, and ONNX and XML contents.

ONNX can name other files and operators of other libraries, XML can define entities that grow to any
size. `drn export` writes none of that, so the structure of a file is compared with an allow-list.
The same for .pt2 is `pt2_safety`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from drn_cli.errors import DrnError
from drn_cli.integrity import crc32, damaged

# The checksum is the last thing in a file and covers every byte before it: in ONNX a metadata
# entry (field 14 of the model, 20 bytes: key and value of 8 bytes each; protobuf allows fields in
# any order), in an .xml a comment. The zip records of a .pt2 have checksums anyway.
CHECKSUM = {
    ".onnx": b"\x72\x14\x0a\x08checksum\x12\x08%s",
    ".xml": b"<!-- drn checksum %s -->\n",
}

# Allowed fields of each protobuf message (onnx.proto), with the kind of those that are messages.
ONNX_FIELDS: dict[str, dict[int, str]] = {
    "model": dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 14), "") | {7: "graph"},
    "graph": dict.fromkeys((2, 10, 11, 12, 13, 14, 16), "") | {1: "node", 5: "tensor"},
    "node": dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9), "") | {5: "attribute"},
    "attribute": dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 13, 20), "") | {5: "tensor", 10: "tensor"},
    "tensor": dict.fromkeys((1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16), ""),
}
ONNX_REFUSED = {
    ("model", 20): "training information",
    ("model", 25): "functions",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "subgraphs",
    ("attribute", 11): "subgraphs",
    ("tensor", 13): "tensors in external files",
}
ONNX_DOMAIN, ONNX_LOCATION = ("node", 7), ("tensor", 14)
ONNX_DOMAINS = (b"", b"ai.onnx")  # com.microsoft has operators that read files

XML_ANY = "rt_info"  # contains elements of any name, which are data
XML_ELEMENTS = {
    *("net", "layers", "layer", "data", "input", "output", "port", "dim", "edges", "edge", XML_ANY)
}
XML_OPSET = re.compile(r"opset\d{1,2}")
MAX_XML_DEPTH = 30


def append_checksum(path: Path) -> None:
    """Append a CRC-32 to an .onnx file, or to an .xml file and its .bin."""
    parts = [path] if path.suffix.lower() == ".onnx" else [path.with_suffix(".bin"), path]
    value = crc32(part.read_bytes() for part in parts).encode()
    with path.open("ab") as file:
        file.write(CHECKSUM[path.suffix.lower()] % value)


def checksum_matches(path: Path, content: bytes, weights: bytes = b"") -> bool | None:
    """Compare the checksum of an .onnx or .xml file (`weights`: its .bin); None if it has none."""
    template = CHECKSUM[path.suffix.lower()]
    length = len(template % bytes(8))
    if not content[-length:].startswith(template.partition(b"%")[0]):
        return None
    value = crc32([weights, memoryview(content)[:-length]]).encode()
    return content.endswith(template % value)


def refused(path: Path, content: str) -> DrnError:
    """Return the error for a file that contains what `drn export` does not write."""
    return DrnError(
        f"{path}: refused: contains {content}", "only networks written by `drn export` can be used"
    )


def check_onnx(content: bytes, path: Path) -> None:
    """Walk through the protobuf messages of an ONNX file.

    Raises:
        DrnError: A field that `drn export` does not write, or not protobuf.
    """
    try:
        _check_message(memoryview(content), "model", path)
    except (IndexError, ValueError) as error:
        raise damaged(path, "not an ONNX file") from error


def _check_message(message: memoryview, kind: str, path: Path) -> None:
    for number, value in _protobuf_fields(message):
        inner = ONNX_FIELDS[kind].get(number)
        if inner is None:
            raise refused(path, ONNX_REFUSED.get((kind, number), f"field {number} of a {kind}"))
        if inner or (kind, number) == ONNX_DOMAIN:
            if isinstance(value, int):
                raise ValueError(f"field {number} of a {kind} is a number")
            if inner:
                _check_message(value, inner, path)
            elif value.tobytes() not in ONNX_DOMAINS:
                raise refused(path, "operators of another library")
        elif (kind, number) == ONNX_LOCATION and value != 0:
            raise refused(path, ONNX_REFUSED["tensor", 13])


def _protobuf_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value (an integer, or bytes) of each field; ValueError or IndexError."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 64, 7):
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a varint of more than 10 bytes")

    while at < len(message):
        number, wire_type = divmod(varint(), 8)
        if number == 0 or wire_type not in (0, 1, 2, 5):
            raise ValueError(f"field {number} of wire type {wire_type}")
        if wire_type == 0:
            yield number, varint()
            continue
        length = varint() if wire_type == 2 else 8 if wire_type == 1 else 4
        if at + length > len(message):
            raise ValueError("cut short")
        yield number, message[at : at + length]
        at += length


def check_xml(xml: bytes, path: Path) -> None:
    """Parse the .xml of an OpenVINO network.

    Raises:
        DrnError: An element, operator or declaration that `drn export` does not write, or no XML.
    """
    if not xml.startswith(b"<?xml"):  # OpenVINO would try every format it knows
        raise damaged(path, "not an .xml file")
    open_elements: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        any_name = XML_ANY in open_elements
        open_elements.append(name)
        depth = len(open_elements)
        if depth > MAX_XML_DEPTH or not (any_name or name in XML_ELEMENTS):
            raise refused(path, f"an element {name[:40]!r} at depth {depth}")
        opset = attributes.get("version", "")
        if name == "layer" and not any_name and not XML_OPSET.fullmatch(opset):
            raise refused(path, "operators of another library")

    def refuse(*_: object) -> None:
        raise refused(path, "a document type or a processing instruction")

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise damaged(path, f"XML: {error}") from error
