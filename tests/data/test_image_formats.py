"""Pillow's warnings are off in all threads inside the context, and on again afterwards."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from PIL import Image

from drn_cli.data.image_formats import without_pillow_limits


def warn() -> None:
    warnings.warn("odd", UserWarning, stacklevel=1)


def test_warnings_are_off_only_inside() -> None:
    with without_pillow_limits, without_pillow_limits:
        warn()
    with pytest.raises(UserWarning, match="odd"):  # the tests' own filter
        warn()


def test_warnings_stay_off_until_the_last_thread_leaves() -> None:
    filters = list(warnings.filters)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with without_pillow_limits:
            first_is_in.set()
            assert second_is_in.wait(30)
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(30)
        with without_pillow_limits:
            second_is_in.set()
            assert first_is_out.wait(30)
            warn()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(first), pool.submit(second)]:
            future.result()
    assert list(warnings.filters) == filters


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks, where there are threads
def test_forked_process_starts_outside() -> None:
    is_in, is_forked = threading.Event(), threading.Event()
    limit = Image.MAX_IMAGE_PIXELS

    def read() -> None:
        with without_pillow_limits:
            is_in.set()
            assert is_forked.wait(30)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert is_in.wait(30)
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                with without_pillow_limits:
                    warn()
                assert limit == Image.MAX_IMAGE_PIXELS
                try:
                    warn()
                except UserWarning:
                    code = 5
            os._exit(code)
        is_forked.set()
        _, status = os.waitpid(child, 0)
        reading.result()
    assert os.waitstatus_to_exitcode(status) == 5
