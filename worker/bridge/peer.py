"""JSON-RPC 2.0 over the sidecar's pipes: ids, time-outs, answers, ordered notifications.

The read loop never waits: each request runs in its own task, so answers arrive while handlers are busy. Method names
and shapes come from `protocol`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup
from jsonrpcclient import Error, parse, request
from loguru import logger
from pydantic import ValidationError

from worker.bridge.framing import LineWriter, read_documents
from worker.bridge.protocol import (
    NOTIFICATIONS,
    REFUSED,
    TO_WORKER,
    AskGroups,
    Assertion,
    Close,
    Closed,
    Code,
    Connected,
    ConnectParameters,
    Groups,
    MediaHostList,
    MediaRefresh,
    Monitor,
    Nothing,
    Notification,
    PairingCode,
    PasskeyAssertion,
    PasskeyOptions,
    Pong,
    Refreshed,
    Wire,
)
from worker.errors import CallFailed, CallTimeout, SidecarGone, StateError, StoreError, StoreUnavailable, unwrapped

CONNECT_SECONDS = 75.0  # state.load may wait for the database more than once, 15 s each; then Baileys loads
MONITOR_SECONDS = 75.0  # may be the first call, during which Baileys loads
CLOSE_EXTRA_SECONDS = 5.0  # on top of the drain; ending a socket is immediate
LOGOUT_EXTRA_SECONDS = 15.0  # one round trip to WhatsApp; does not wait for the phone
PAIRING_CODE_SECONDS = 30.0  # one query that WhatsApp answers in a second
PASSKEY_STEP_SECONDS = 30.0  # one query; the sidecar waits 20 s for it
GROUPS_SECONDS = 70.0  # Baileys times out after 60 s, with a better error than ours
MEDIA_REFRESH_SECONDS = 60.0  # the phone must be awake; Baileys itself would wait forever
MEDIA_HOSTS_SECONDS = 10.0  # one query that WhatsApp answers in a second; downloads wait for it
PING_SECONDS = 10.0  # an event loop that lags longer is hung
REQUESTS_AT_ONCE = 256  # the sidecar has one commit in flight and a few reads; more requests queue
REQUESTS_WAITING = 4096  # queued and running; a sidecar that sends more is broken
NOTIFICATIONS_AT_ONCE = 1024  # normal is a handful an hour; a full queue means that one side is broken

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

Handler = Callable[[Any], Awaitable[Wire]]
Result = TypeVar("Result", bound=Wire)


class Writer(Protocol):
    async def send(self, document: dict[str, Any]) -> None: ...


@dataclass
class _Waiter:
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: dict[str, Any] | None = None


class Peer:
    """The sidecar as an object: one method per command, and a stream of its notifications.

    `handlers` answer the sidecar's requests, each in its own task. Nothing arrives unless `run` is running. When the
    link ends, every caller gets `SidecarGone` and the notifications end.
    """

    def __init__(self, lines: AsyncIterator[dict[str, Any]], writer: Writer, handlers: Mapping[str, Handler]) -> None:
        self._lines = lines
        self._writer = writer
        self._handlers = handlers
        self._waiting: dict[int, _Waiter] = {}
        self._last_id = 0
        self._gone: str | None = None
        self._limit = anyio.Semaphore(REQUESTS_AT_ONCE)  # first come, first served: commits keep their order
        self._unanswered = 0
        self._told, self.notifications = anyio.create_memory_object_stream[Notification](NOTIFICATIONS_AT_ONCE)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._end("the link was closed")
        self.notifications.close()

    # Commands

    async def connect(self, params: ConnectParameters) -> Connected:
        return await self._ask("connect", params, Connected, CONNECT_SECONDS)

    async def monitor(self, groups: Iterable[str]) -> None:
        """Tell the sidecar which groups' messages are stored."""
        await self._ask("monitor", Monitor(groups=sorted(groups)), Nothing, MONITOR_SECONDS)

    async def close(self, *, logout: bool, drain_seconds: float) -> int:
        """End the socket and drain the log. Returns the number of items left in it."""
        extra = LOGOUT_EXTRA_SECONDS if logout else CLOSE_EXTRA_SECONDS
        params = Close(logout=logout, drain_ms=math.ceil(drain_seconds * 1000))
        return (await self._ask("close", params, Closed, drain_seconds + extra)).pending

    async def pairing_code(self, phone: str) -> Code:
        return await self._ask("pairing_code", PairingCode(phone=phone), Code, PAIRING_CODE_SECONDS)

    async def passkey_options(self) -> dict[str, Any] | None:
        """Fetch fresh options for the passkey request; None if WhatsApp sent none that are readable."""
        return (await self._ask("passkey_options", None, PasskeyOptions, PASSKEY_STEP_SECONDS)).options

    async def passkey_assertion(self, assertion: Assertion) -> None:
        await self._ask("passkey_assertion", PasskeyAssertion(assertion=assertion), Nothing, 2 * PASSKEY_STEP_SECONDS)

    async def passkey_confirm(self) -> None:
        await self._ask("passkey_confirm", None, Nothing, PASSKEY_STEP_SECONDS)

    async def groups(self, members_of: Iterable[str] = ()) -> Groups:
        """The account's groups, with member lists for `members_of`."""
        params = AskGroups(members_of=sorted(members_of))
        return await self._ask("groups", params, Groups, GROUPS_SECONDS)

    async def media_refresh(self, key: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
        params = MediaRefresh(key=key, content=content)
        return (await self._ask("media_refresh", params, Refreshed, MEDIA_REFRESH_SECONDS)).content

    async def media_hosts(self) -> MediaHostList:
        return await self._ask("media_hosts", None, MediaHostList, MEDIA_HOSTS_SECONDS)

    async def ping(self) -> Pong:
        return await self._ask("ping", None, Pong, PING_SECONDS)

    # The link

    async def run(self) -> None:
        """Read until the link ends, then wake every waiter.

        Raises:
            SidecarGone: always, in the end; the text says what ended the link.
            Exception: whatever a handler raises besides the errors that it may answer with.
        """
        reason = "the sidecar closed its end of the pipe"
        try:
            with unwrapped():
                async with anyio.create_task_group() as task_group:
                    async for document in self._lines:
                        self._receive(document, task_group)
                    task_group.cancel_scope.cancel()
        except SidecarGone as gone:
            reason = str(gone)
        finally:
            self._end(reason)
        raise SidecarGone(reason)

    def _end(self, reason: str) -> None:
        self._gone = self._gone or reason
        for waiter in self._waiting.values():
            waiter.done.set()
        self._told.close()

    def _receive(self, document: dict[str, Any], task_group: TaskGroup) -> None:
        method = document.get("method")
        if not isinstance(method, str):
            self._take_answer(document)
        elif "id" in document:
            if self._unanswered == REQUESTS_WAITING:
                raise SidecarGone("the sidecar floods the worker with requests")
            self._unanswered += 1
            task_group.start_soon(self._answer, document["id"], method, document.get("params") or {})
        else:
            self._take_notification(method, document.get("params") or {})

    def _take_answer(self, document: dict[str, Any]) -> None:
        number = document.get("id")
        waiter = self._waiting.get(number) if isinstance(number, int) else None
        if waiter:
            waiter.answer = document
            waiter.done.set()
        elif "result" in document or "error" in document:
            logger.debug("the sidecar answered a call that nobody is waiting for")
        else:
            raise SidecarGone("the sidecar wrote a JSON object that is not JSON-RPC")

    def _take_notification(self, method: str, params: dict[str, Any]) -> None:
        model = NOTIFICATIONS.get(method)
        if model is None:
            logger.warning("the sidecar sent the notification {!r}, which this worker does not know", method[:40])
            return
        try:
            self._told.send_nowait(model.model_validate(params))  # type: ignore[arg-type]
        except ValidationError as wrong:
            raise SidecarGone(f"the sidecar's notification {method!r} is malformed: {_where(wrong)}") from None
        except anyio.WouldBlock:
            raise SidecarGone("the sidecar floods the worker with notifications") from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def _answer(self, number: Any, method: str, params: dict[str, Any]) -> None:
        try:
            async with self._limit:
                answer = await self._dispatch(method, params)
        finally:
            self._unanswered -= 1
        try:
            await self._writer.send({"jsonrpc": "2.0", "id": number, **answer})
        except ValueError as too_long:  # nothing was written
            logger.error("the answer to {} cannot be sent: {}", method, too_long)
            answer = _error(REFUSED, "the answer is too long for the wire", "unavailable")
            await self._writer.send({"jsonrpc": "2.0", "id": number, **answer})

    async def _dispatch(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        model, handler = TO_WORKER.get(method), self._handlers.get(method)
        if model is None or handler is None:
            return _error(METHOD_NOT_FOUND, f"no such method: {method[:40]}")
        try:
            parsed = model.model_validate(params)
        except ValidationError as wrong:
            logger.error("the sidecar's {} is malformed: {}", method, _where(wrong))
            return _error(INVALID_PARAMS, f"malformed parameters: {_where(wrong)}")
        try:
            result = await handler(parsed)
        except StoreUnavailable:
            return _error(REFUSED, "the database does not answer", "unavailable")
        except StateError:
            return _error(REFUSED, "the stored state cannot be read", "unreadable")
        except StoreError:
            return _error(REFUSED, "this connection may write nothing more", "stale")
        return {"result": result.model_dump(mode="json")}

    async def _ask(self, method: str, params: Wire | None, model: type[Result], seconds: float) -> Result:
        result = await self._call(method, params, seconds)
        try:
            return model.model_validate(result)
        except ValidationError as wrong:
            raise SidecarGone(f"the sidecar's answer to {method!r} is malformed: {_where(wrong)}") from None

    async def _call(self, method: str, params: Wire | None, seconds: float) -> Any:
        if self._gone:
            raise SidecarGone(self._gone)
        self._last_id += 1
        number = self._last_id
        document = {"params": {}, **request(method, params.model_dump(mode="json") if params else None, id=number)}
        waiter = self._waiting[number] = _Waiter()
        try:
            with anyio.fail_after(seconds):
                await self._writer.send(document)
                await waiter.done.wait()
        except TimeoutError:
            raise CallTimeout(f"the sidecar did not answer {method!r} within {seconds:g} s") from None
        finally:
            del self._waiting[number]
        if waiter.answer is None:
            raise SidecarGone(self._gone or "the sidecar is gone")
        return _read_answer(waiter.answer, method)


def make_peer(receive: Any, send: Any, handlers: Mapping[str, Handler]) -> Peer:
    """A peer over a pair of byte streams."""
    return Peer(read_documents(receive), LineWriter(send), handlers)


def _read_answer(document: dict[str, Any], method: str) -> Any:
    try:
        answer = parse(document)
    except (KeyError, TypeError):
        raise SidecarGone(f"the sidecar's answer to {method!r} is not JSON-RPC") from None
    if isinstance(answer, Error):
        raise CallFailed(str(answer.message), answer.code if isinstance(answer.code, int) else 0, answer.data)
    return answer.result  # type: ignore[union-attr]


def _error(code: int, message: str, reason: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    return {"error": {**error, "data": {"reason": reason}} if reason else error}


def _where(wrong: ValidationError) -> str:
    """Which fields are wrong and how. Omits their values, which may be a message or a key."""
    first = wrong.errors(include_input=False, include_url=False, include_context=False)[:3]
    return "; ".join(f"{'.'.join(str(part)[:40] for part in error['loc'])} {error['type']}" for error in first)
