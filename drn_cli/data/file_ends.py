"""Whether an image file is cut short, by its first and last bytes: nothing is decoded.

A download or copy that was interrupted has a good header, and shows only when it is decoded. Most
formats have a mark at their end or their length at the start, which takes microseconds to compare.
"""

from pathlib import Path

ENDS = 16  # bytes that are looked at, at either end

PNG_MAGIC, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
JPEG, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
GIF, GIF_END = b"GIF8", b"\x3b"


def has_end_marker(head: bytes, tail: bytes, size: int) -> bool | None:
    """Return whether a file has the end that its format asks for.

    Args:
        head: The first bytes, `ENDS` of them or all.
        tail: The last bytes, likewise.
        size: Bytes of the whole file.

    Returns:
        None for a format without such a mark. False does not prove that something is missing:
        some programs write padding, or data of their own, after the end.
    """
    for start, end in ((PNG_MAGIC, PNG_END), (JPEG, JPEG_END), (GIF, GIF_END)):
        if head.startswith(start):
            return tail.endswith(end)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return size >= int.from_bytes(head[4:8], "little") + 8
    if head[:2] == b"BM" and len(head) >= 6:
        return size >= int.from_bytes(head[2:6], "little")
    return None


def may_be_truncated(path: Path) -> bool:
    """Return whether a file lacks the end that its format asks for; only decoding proves it.

    A file that cannot be read counts as well.
    """
    try:
        with path.open("rb") as file:
            head = file.read(ENDS)
            size = file.seek(0, 2)
            file.seek(max(0, size - ENDS))
            return has_end_marker(head, file.read(), size) is False or not size
    except OSError:
        return True
