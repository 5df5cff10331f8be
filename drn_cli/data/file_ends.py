"""Detection of truncated image files by their first and last bytes, without decoding.

An interrupted download or copy has a valid header. Most formats have an end marker, or their length
at the start, which takes microseconds to check.
"""

from pathlib import Path

ENDS = 16  # bytes read at either end of a file

PNG_MAGIC, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
JPEG, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
GIF, GIF_END = b"GIF8", b"\x3b"


def has_end_marker(head: bytes, tail: bytes, size: int) -> bool | None:
    """Whether a file has the end marker, or the length, that its format requires.

    Args:
        head: The first `ENDS` bytes, or the whole file if it is shorter.
        tail: The last `ENDS` bytes, likewise.
        size: File size in bytes.

    Returns:
        None for a format with neither. False does not prove truncation: some programs append
        padding or private data.
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
    """Whether a file lacks the end of its format, or cannot be read; decoding has to confirm it."""
    try:
        with path.open("rb") as file:
            head = file.read(ENDS)
            size = file.seek(0, 2)
            file.seek(max(0, size - ENDS))
            return has_end_marker(head, file.read(), size) is False or not size
    except OSError:
        return True
