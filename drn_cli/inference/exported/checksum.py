"""A checksum that lies in an exported file itself, as the last thing in it.

It is over every byte before it: ONNX keeps it as metadata whose bytes come last (protobuf allows
any order), an .xml of OpenVINO as a comment behind its only element, over the .bin too. The zip
records of a .pt2 have theirs anyway.
"""

import re
from pathlib import Path

from drn_cli.integrity import crc32, damaged

KEY = "checksum"
# Field 14 of a model, 20 bytes long: a key (field 1) and a value (field 2) of 8 bytes each.
ONNX_ENTRY = re.compile(rb"\x72\x14\x0a\x08checksum\x12\x08([0-9a-f]{8})", re.DOTALL)
ONNX_LENGTH = 22
XML_COMMENT = re.compile(rb"<!-- drn checksum ([0-9a-f]{8}) -->\n")
XML_LENGTH = 31


def write_onnx_checksum(path: Path) -> None:
    """Append its checksum to an ONNX file that has none."""
    value = crc32([path.read_bytes()]).encode()
    with path.open("ab") as file:
        file.write(b"\x72\x14\x0a\x08checksum\x12\x08" + value)


def write_openvino_checksum(path: Path) -> None:
    """Append the checksum of an .xml and its .bin to the .xml."""
    value = crc32([path.with_suffix(".bin").read_bytes(), path.read_bytes()])
    with path.open("ab") as file:
        file.write(f"<!-- drn checksum {value} -->\n".encode())


def check_onnx(content: bytes, path: Path) -> bool:
    """Verify the checksum of an ONNX file.

    Returns:
        Whether it has one.

    Raises:
        DrnError: The file is damaged.
    """
    found = ONNX_ENTRY.fullmatch(content[-ONNX_LENGTH:])
    if found is None:
        return False
    if found[1].decode() != crc32([memoryview(content)[:-ONNX_LENGTH]]):
        raise damaged(path, "its checksum differs")
    return True


def check_openvino(xml: bytes, weights: bytes, path: Path) -> bool:
    """Verify the checksum of an .xml and its .bin; as `check_onnx`."""
    found = XML_COMMENT.fullmatch(xml[-XML_LENGTH:])
    if found is None:
        return False
    if found[1].decode() != crc32([weights, memoryview(xml)[:-XML_LENGTH]]):
        name = path.with_suffix(".bin").name
        raise damaged(path, f"its checksum differs, or {name} is another's")
    return True
