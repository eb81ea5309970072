"""Runs the reads of one page concurrently."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc

from worker.errors import unwrapped

T = TypeVar("T")


@dataclass
class Answer(Generic[T]):
    """The result of a read: `value`, available after the block that started it."""

    _found: list[T] = field(default_factory=list)

    @property
    def value(self) -> T:
        return self._found[0]

    async def _take(self, read: Coroutine[Any, Any, T]) -> None:
        self._found.append(await read)


class Reads:
    """Made by `parallel_reads`."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks

    def start(self, read: Coroutine[Any, Any, T]) -> Answer[T]:
        answer: Answer[T] = Answer()
        self._tasks.start_soon(answer._take, read)
        return answer


@asynccontextmanager
async def parallel_reads() -> AsyncIterator[Reads]:
    """A block at whose end all reads are done. The first failure cancels the others and is raised."""
    with unwrapped():
        async with anyio.create_task_group() as tasks:
            yield Reads(tasks)
