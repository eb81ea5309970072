"""Reads lines that a person types or pastes at the terminal."""

from __future__ import annotations

import os
import sys
import termios

import anyio


class Keyboard:
    """Reads lines one at a time, without a thread that must be joined at the end."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._rest = b""

    async def line(self) -> str:
        """The next line, stripped.

        Raises:
            anyio.EndOfStream: the terminal was closed, or Ctrl-D.
        """
        while b"\n" not in self._rest:
            await anyio.wait_readable(self._descriptor)
            chunk = os.read(self._descriptor, 4096)
            if not chunk:
                raise anyio.EndOfStream
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def forget(self) -> None:
        """Drop input typed before a question was asked."""
        self._rest = b""
        if os.isatty(self._descriptor):
            termios.tcflush(self._descriptor, termios.TCIFLUSH)
