"""How old a message may be when it arrives.

Owns the age rule (docs/architecture.md, "Live only") and the handling of wrong clocks. Reads no clock: the stanza has
its time of arrival.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.times import iso_utc

FUTURE_TOLERANCE_S = 60  # servers differ by a second or two; more means a broken clock or a lie
RETRY_WINDOW_S = 3600  # for a good copy whose stub may not be stored; with a stub it may be older
_EARLIEST_S = 1_230_768_000  # 2009, before WhatsApp
LATEST_S = 4_102_444_800  # 2100; Postgres would also take the year 99999 (docs/supabase.md)
_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveWindow:
    """WORKER_LIVE_WINDOW_S and WORKER_CATCH_UP_S."""

    live_s: int = 30
    catch_up_s: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """When and how a stanza arrived. `clock_s`: WhatsApp's time at that moment, if known.

    `first_s`: when a copy that is not durable first arrived, on this connection or an earlier one.
    """

    clock_s: float
    offline: bool = False
    again: bool = False  # a copy that we asked for: a retry, or the phone's resend
    first_s: float | None = None


def clock_at(arrived_at_ms: float, server_time_offset_ms: float | None) -> float | None:
    """WhatsApp's time in seconds at an arrival; None if the stamp is impossible."""
    offset = server_time_offset_ms if server_time_offset_ms is not None else 0.0
    if not (math.isfinite(offset) and math.isfinite(arrived_at_ms)):
        return None
    clock = (arrived_at_ms + offset) / 1000
    return clock if _EARLIEST_S <= clock < LATEST_S else None


def sent_at(stamp: str | None, clock_s: float) -> float:
    """The message's time in seconds: the server's stamp; the arrival if that is missing, invalid or in the future."""
    if stamp is None or _SECONDS.fullmatch(stamp) is None:
        return clock_s
    seconds = float(stamp)
    return seconds if seconds <= clock_s + FUTURE_TOLERANCE_S else clock_s


def is_live(sent_s: float, arrival: Arrival, window: LiveWindow) -> bool:
    """Whether a message of this age is stored. The bound is inclusive: the contract discards `ts < now - 30s`."""
    longest = window.live_s
    if arrival.offline or arrival.again:
        longest = max(longest, window.catch_up_s)
    if arrival.again:
        longest = max(longest, RETRY_WINDOW_S)
    first = arrival.clock_s if arrival.first_s is None else min(arrival.first_s, arrival.clock_s)
    return first - sent_s <= longest


def iso(seconds: float) -> str:
    """UTC in ISO 8601 with milliseconds.

    Raises:
        ValueError: outside 1970 to 2100.
    """
    if not 0 <= seconds < LATEST_S:
        raise ValueError("time out of range")
    return iso_utc(datetime.fromtimestamp(seconds, UTC))
