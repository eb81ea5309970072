"""Python's `time.sleep` beside libfaketime.

CPython sleeps by `clock_nanosleep` until an absolute time of the monotonic clock. libfaketime rewrites that time even
with `FAKETIME_DONT_FAKE_MONOTONIC`, and the kernel now and then refuses the result as EINVAL. `select` waits as well.
"""

import select
import time


def sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = sleep  # type: ignore[assignment]
