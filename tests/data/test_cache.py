import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from image_files import chunk
from PIL import Image

from drn_cli.data.cache import DecodedCache, cache_plan, open_cache
from drn_cli.data.decoding import decode
from drn_cli.data.file_ends import PNG_MAGIC
from drn_cli.data.folders import ListDataset, Sample
from drn_cli.errors import DrnError


@pytest.fixture
def samples(own_data_folder: Path) -> list[Sample]:
    return ListDataset.open(own_data_folder).samples("train")


@pytest.fixture
def cache(own_data_folder: Path) -> DecodedCache:
    return DecodedCache(own_data_folder / "drn-cache", own_data_folder)


def equal(cache: DecodedCache, sample: Sample) -> bool:
    return all(
        np.array_equal(kept, fresh)
        for kept, fresh in zip(cache.read(sample), decode(sample), strict=True)
    )


def files(cache: DecodedCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_first_read_decodes_and_later_reads_map(cache: DecodedCache, samples: list[Sample]) -> None:
    assert not cache.holds(samples[0])
    assert all(equal(cache, sample) for sample in samples)
    assert len(files(cache)) == len(samples)
    fresh = [decode(sample) for sample in samples]
    for sample in samples:  # same size and time, but unreadable
        status = sample.image.stat()
        sample.image.write_bytes(bytes(status.st_size))
        os.utime(sample.image, ns=(status.st_atime_ns, status.st_mtime_ns))
    for sample, (image, label) in zip(samples, fresh, strict=True):
        assert cache.holds(sample)
        kept = cache.read(sample)
        assert np.array_equal(kept[0], image)
        assert np.array_equal(kept[1], label)
        assert not kept[0].flags.writeable
        assert not kept[0].flags.owndata  # mapped, not read


@pytest.mark.parametrize("which", ["image", "label"])
def test_changed_source_replaces_its_cache_file(
    cache: DecodedCache, samples: list[Sample], which: str
) -> None:
    sample = samples[0]
    cache.read(sample)
    before = files(cache)
    path = getattr(sample, which)
    changed = np.asarray(Image.open(path)) // 2
    Image.fromarray(changed).save(path)
    os.utime(path, (0, time.time() + 5))
    assert not cache.holds(sample)
    assert equal(cache, sample)
    assert len(files(cache)) == 1
    assert files(cache) != before


def test_invalid_label_is_an_error_whether_cached_or_not(
    cache: DecodedCache, samples: list[Sample]
) -> None:
    label = np.full((48, 64), 255, np.uint8)
    label[5, 6:9] = 7
    Image.fromarray(label).save(samples[0].label)
    for _ in range(2):  # decoded, then mapped
        with pytest.raises(DrnError, match="3 pixels have the label 7; labels are 0 to 6"):
            cache.read(samples[0], 7)
        assert cache.holds(samples[0])
    assert np.array_equal(cache.read(samples[0], 8)[1], label)


def test_cache_moves_with_the_data_folder(
    cache: DecodedCache, samples: list[Sample], own_data_folder: Path, tmp_path: Path
) -> None:
    cache.read(samples[0])
    moved = own_data_folder.rename(tmp_path / "elsewhere")
    again = DecodedCache(moved / "drn-cache", moved)
    assert again.holds(ListDataset.open(moved).samples("train")[0])


@pytest.mark.parametrize("kept", [0, 50, 2000])
def test_truncated_cache_file_is_replaced(
    cache: DecodedCache, samples: list[Sample], kept: int
) -> None:
    cache.read(samples[0])
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert equal(cache, samples[0])
    assert equal(cache, samples[0])
    assert path.stat().st_size > 48 * 64 * 4


def damages(whole: bytes, other: bytes) -> Iterator[bytes]:
    """Yield a file with a flipped bit, truncated, extended, transposed, or of another sample."""
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 200, replace=False):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        yield bytes(data)
    for bit in range(8 * 24):  # the header
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        yield bytes(data)
    for length in random.integers(0, len(whole), 20):
        yield whole[:length]
    yield whole + bytes(4)
    swapped = whole[:4] + whole[8:12] + whole[4:8] + whole[12:]  # height and width
    assert swapped != whole
    yield swapped
    yield other
    yield bytes(len(whole))


def test_damaged_file_is_reported_and_decoded_again(
    cache: DecodedCache, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    cache.read(samples[0])
    (path,) = cache.folder.iterdir()
    cache.read(samples[1])
    (other,) = set(cache.folder.iterdir()) - {path}
    whole, expected = path.read_bytes(), decode(samples[0])
    for number, data in enumerate(damages(whole, other.read_bytes())):
        caplog.clear()
        path.write_bytes(data)
        image, label = DecodedCache(cache.folder, cache.root).read(samples[0])
        assert np.array_equal(image, expected[0]), number
        assert np.array_equal(label, expected[1]), number
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{path}: damaged: "), number
        assert path.read_bytes() == whole, number


def test_header_is_verified_each_time_and_pixels_once(
    cache: DecodedCache, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # decoded, then mapped and verified
        image, _ = cache.read(samples[0])
    (path,) = cache.folder.iterdir()
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0" if image.reshape(-1)[0] else b"\1")
    cache.read(samples[0])
    assert not caplog.records  # that would take as long as reading it
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff")
    assert equal(cache, samples[0])
    assert "wrong checksum of its header" in caplog.text


def test_files_of_an_earlier_format_are_replaced(
    cache: DecodedCache, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    cache.read(samples[0])
    (path,) = cache.folder.iterdir()
    earlier = path.with_name(path.name.partition("-")[0] + "-0123456789abcdef.raw")
    path.rename(earlier)
    assert not cache.holds(samples[0])
    assert equal(cache, samples[0])
    assert list(cache.folder.iterdir()) == [path]
    assert not caplog.records


def test_sample_is_read_if_the_cache_cannot_be_written(
    cache: DecodedCache, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    cache.folder.write_text("in the way")
    for sample in samples[:3]:
        assert equal(cache, sample)
    assert not cache.writable
    (record,) = caplog.records  # said once
    assert "cannot be written" in record.message
    with pytest.raises(DrnError, match="cannot be written"):
        cache.add(samples[0])


def test_broken_image_is_not_cached(cache: DecodedCache, samples: list[Sample]) -> None:
    samples[0].image.write_bytes(samples[0].image.read_bytes()[:100])
    with pytest.raises(DrnError, match="broken image"):
        cache.read(samples[0])
    samples[1].label.unlink()
    with pytest.raises(DrnError, match=f"{samples[1].label}: cannot be read"):
        cache.read(samples[1])
    assert not cache.folder.exists()


def test_plan_counts_missing_samples_and_their_size(
    cache: DecodedCache, samples: list[Sample]
) -> None:
    cache.read(samples[0])
    lacking = cache_plan(cache, samples)
    assert lacking.samples == samples[1:]
    for sample in lacking.samples:
        cache.read(sample)
    written = sum(path.stat().st_size for path in cache.folder.iterdir())
    assert lacking.bytes == written * 11 / 12
    assert lacking.free == pytest.approx(shutil.disk_usage(cache.folder).free, rel=0.05)
    assert cache_plan(cache, samples).bytes == 0


def read_all(folder: Path, root: Path, reversed_: bool) -> bool:
    samples = ListDataset.open(root).samples("train")
    cache = DecodedCache(folder, root)
    return all(equal(cache, sample) for sample in (samples[::-1] if reversed_ else samples))


def test_several_processes_fill_the_same_cache(
    cache: DecodedCache, samples: list[Sample], own_data_folder: Path
) -> None:
    work = partial(read_all, cache.folder, own_data_folder)
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        assert all(pool.map(work, [False, False, True, False]))
    assert len(files(cache)) == len(samples)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from drn_cli.data.cache import DecodedCache
from drn_cli.data.folders import ListDataset

root = Path(sys.argv[1])
def killed(parts):
    os.kill(os.getpid(), signal.SIGKILL)
np.hstack = killed
DecodedCache(root / "drn-cache", root).read(ListDataset.open(root).samples("train")[0])
"""


def test_killed_process_leaves_no_invalid_file(
    cache: DecodedCache, samples: list[Sample], own_data_folder: Path
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, own_data_folder], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = cache.folder.iterdir()
    assert not cache.holds(samples[0])
    assert equal(cache, samples[0])
    cache.sweep()
    assert left.exists()  # another process might still be writing it
    os.utime(left, (0, 0))
    cache.sweep()
    assert not left.exists()
    assert cache.holds(samples[0])


def test_remove_keeps_other_files(cache: DecodedCache, samples: list[Sample]) -> None:
    for sample in samples:
        cache.read(sample)
    (cache.folder / "notes.raw").write_text("mine")
    assert cache.remove() == len(samples)
    assert files(cache) == ["notes.raw"]
    (cache.folder / "notes.raw").unlink()
    assert cache.remove() == 0
    assert not cache.folder.exists()


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_message_of_opened_cache_contains_its_size(
    own_data_folder: Path, samples: list[Sample], kind: str
) -> None:
    place = own_data_folder / "decoded"
    opened = open_cache(kind, own_data_folder, place, samples)
    assert not opened.refused
    assert "12 samples take 147.7 kB decoded in" in opened.message
    assert equal(opened.cache, samples[0])
    assert place.exists() == (kind == "disk")
    for sample in samples:
        opened.cache.read(sample)
    again = open_cache(kind, own_data_folder, place, samples)
    assert "all 12 samples are cached" in again.message


def test_cache_is_refused_if_the_disk_is_too_small(own_data_folder: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
    image = own_data_folder / "large.png"  # of which only the header is read
    image.write_bytes(PNG_MAGIC + header + chunk(b"IDAT", b""))
    count = shutil.disk_usage(own_data_folder).free // 500_000_000 + 2
    opened = open_cache(
        "disk", own_data_folder, own_data_folder / "decoded", [Sample(image, image)] * count
    )
    assert (opened.cache, opened.refused) == (None, True)
    assert f"{count} samples take" in opened.message
    assert "are free; images are decoded each time" in opened.message


def test_cache_is_refused_if_its_folder_cannot_be_written(
    own_data_folder: Path, samples: list[Sample]
) -> None:
    (own_data_folder / "decoded").write_text("in the way")
    opened = open_cache("disk", own_data_folder, own_data_folder / "decoded", samples)
    assert (opened.cache, opened.refused) == (None, True)
    assert str(own_data_folder / "decoded") in opened.message
