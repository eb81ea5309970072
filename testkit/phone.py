"""The virtual phone's client: starts the process and speaks its control API (simulator/README.md).

One method per call; answers become frozen dataclasses where tests look at them. Decides nothing.
"""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from testkit.processes import NODE, Child
from worker.installation import node_folder

READY_SECONDS = 30.0  # Node, Baileys and fresh keys on a busy machine
STACK = "--stack-size=3900"  # kB: it must be able to write messages that nest deeper than their receiver can read
CALL_SECONDS = 90.0  # longer than the longest `timeout_ms` that tests use
REALISM = "WA_PHONE_REALISM"  # in the environment of the tests: how unkind the server is (`make e2ematrix`)

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Person:
    name: str
    lid: str
    pn: str


@dataclass(frozen=True, kw_only=True)
class Group:
    id: str
    subject: str
    addressing_mode: str


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message that the virtual phone sent.

    Attributes:
        participant: the sender as the stanza names it; None in a direct message.
        t: Unix seconds, as in the stanza.
        sent_at_ms: when it was written to the socket, Unix milliseconds with fractions.
        queued: the client was away; the message waits in the offline queue.
        sha256: of the plaintext file, hex; None without media.
    """

    id: str
    participant: str | None
    t: int
    sent_at_ms: float
    queued: bool
    sha256: str | None
    path: str | None


@dataclass(frozen=True, kw_only=True)
class Media:
    """A file as its sender describes it. `kind`: image video gif ptv audio voice document sticker.

    `host`: the host in the message's url; `no_direct_path`: the message has only the url.
    """

    kind: str
    data: bytes
    mime: str
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: int | None = None
    file_name: str | None = None
    host: str | None = None
    no_direct_path: bool | None = None

    def to_json(self) -> Json:
        fields: Json = {
            "kind": self.kind,
            "data": base64.b64encode(self.data).decode(),
            "mime": self.mime,
            "caption": self.caption,
            "width": self.width,
            "height": self.height,
            "seconds": self.seconds,
            "file_name": self.file_name,
            "host": self.host,
            "no_direct_path": self.no_direct_path,
        }
        return {name: value for name, value in fields.items() if value is not None}


class PhoneError(AssertionError):
    """The virtual phone refused; the text is its own."""


class VirtualPhone:
    """One running virtual phone. Use it as `async with await VirtualPhone.start(folder) as phone`."""

    def __init__(self, child: Child, ready: Json, folder: Path) -> None:
        self.child = child
        self.control_url: str = ready["control_url"]
        self.socket_url: str = ready["socket_url"]
        self.media_origin: str = ready["media_origin"]
        self.root_key: str = ready["root_key"]
        self.media_ca = folder / "media-ca.pem"
        self.media_ca.write_text(ready["media_ca"])
        self._http = self._client("")
        self._others: list[VirtualPhone] = []

    @classmethod
    async def start(cls, folder: Path) -> Self:
        """Start one with its log and certificate authority in `folder`."""
        profile = os.environ.get(REALISM, "default")
        child = Child.start(
            "virtual phone",
            [
                NODE,
                STACK,
                node_folder() / "simulator" / "index.js",
                "--exit-with-stdin",
                "--private",
                "--realism",
                profile,
            ],
            log=folder / "phone.log",
            pipe_stdout=True,
            hold_stdin=True,
        )
        try:
            line = await child.read_line(READY_SECONDS)
            if not line:
                raise PhoneError(f"the virtual phone did not start\n{child.tail()}")
            return cls(child, json.loads(line), folder)
        except BaseException:
            child.kill()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _client(self, path: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.control_url + path, timeout=CALL_SECONDS, trust_env=False)

    async def another(self, name: str) -> VirtualPhone:
        """Another account on the same server, with this owner; it ends with this one."""
        other = copy.copy(self)
        other._http = self._client((await self.post("/phones", {"name": name}))["path"])
        self._others.append(other)
        return other

    async def stop(self) -> None:
        for phone in (self, *self._others):
            await phone._http.aclose()
        await self.child.stop(seconds=5)

    @property
    def worker_env(self) -> dict[str, str]:
        """Settings that make a worker find and trust this server instead of WhatsApp's."""
        return {
            "WA_SOCKET_URL": self.socket_url,
            "WA_ROOT_KEY": self.root_key,
            "WA_MEDIA_ORIGIN": self.media_origin,
            "WA_MEDIA_CA": str(self.media_ca),
        }

    # The account

    async def state(self) -> Json:
        return await self.get("/state")

    async def owner(self) -> Person:
        owner = (await self.state())["owner"]
        return Person(name=owner["name"], lid=owner["lid"], pn=owner["pn"])

    async def scan(self, qr: str, **options: object) -> Json:
        """Scan a QR code; returns when the client has signed its pairing."""
        return await self.post("/scan", {"qr": qr, **options})

    async def pair_code(self, code: str, **options: object) -> Json:
        """Type a pairing code into the phone; returns when the client has signed its pairing."""
        return await self.post("/pair_code", {"code": code, **options})

    async def wait_for(self, what: str, seconds: float = 30.0, **more: object) -> Json:
        """`connected`, `disconnected`, `paired`, `qr_waiting`, `queue_empty` or `logins` (with `count`)."""
        return await self.post("/wait", {"for": what, "timeout_ms": int(seconds * 1000), **more})

    async def unpair(self, device: int | None = None) -> None:
        """Remove this linked device, or all."""
        await self.post("/unpair", {} if device is None else {"device": device})

    # People and groups

    async def person(self, name: str, **known: str) -> Person:
        answer = await self.post("/people", {"name": name, **known})
        return Person(name=answer["name"], lid=answer["lid"], pn=answer["pn"])

    async def group(
        self, subject: str, participants: Sequence[str], addressing_mode: Literal["lid", "pn"] = "lid", **more: object
    ) -> Group:
        body = {"subject": subject, "participants": list(participants), "addressing_mode": addressing_mode, **more}
        answer = await self.post("/groups", body)
        return Group(id=answer["id"], subject=answer["subject"], addressing_mode=answer["addressing_mode"])

    async def rename(self, group_id: str, subject: str, **more: object) -> None:
        await self.post("/groups/rename", {"id": group_id, "subject": subject, **more})

    # Messages

    async def send(
        self,
        sender: str,
        to: str,
        text: str | None = None,
        *,
        media: Media | None = None,
        fault: Mapping[str, object] | None = None,
        **more: object,
    ) -> Sent:
        """Send as `sender` (a person's name, or `me`: the owner's own phone) to a group id, a name, or `direct`."""
        body: Json = {"from": sender, "to": to, **more}
        if text is not None:
            body["text"] = text
        if media is not None:
            body["media"] = media.to_json()
        if fault is not None:
            body["fault"] = dict(fault)
        return _sent(await self.post("/send", body))

    async def send_raw(self, body: Json) -> Sent:
        return _sent(await self.post("/send", body))

    async def revoke(self, sender: str, to: str, message: str) -> Sent:
        """Revoke this message (by id), as its sender or as anybody else."""
        return _sent(await self.post("/revoke", {"from": sender, "to": to, "id": message}))

    async def burst(self, senders: Sequence[str], groups: Sequence[str], count: int, **more: object) -> Json:
        return await self.post("/burst", {"from": list(senders), "to": list(groups), "count": count, **more})

    # What the client sent

    async def receipts(self, since: int = 0) -> list[Json]:
        items: list[Json] = (await self.get("/receipts", since=since))["items"]
        return items

    async def wait_receipts(
        self, messages: Iterable[Sent | str], seconds: float = 20.0, kinds: Sequence[str] = ("receipt",)
    ) -> list[Json]:
        """The receipts of all these messages (or ids): they are fully handled.

        Raises:
            PhoneError: some did not come in time.
        """
        body = {
            "ids": [_receipt_key(message) for message in messages],
            "kinds": list(kinds),
            "timeout_ms": int(seconds * 1000),
        }
        answer = await self.post("/receipts/wait", body)
        if not answer["done"]:
            raise PhoneError(f"no receipt within {seconds:g} s for {answer['missing']}")
        items: list[Json] = answer["items"]
        return items

    async def log(self, since: int = 0) -> list[Json]:
        items: list[Json] = (await self.get("/log", since=since))["items"]
        return items

    async def offline(self) -> list[Json]:
        items: list[Json] = (await self.get("/offline"))["items"]
        return items

    async def media_requests(self) -> Json:
        return await self.get("/media/requests")

    # Faults

    async def fault(self, kind: str, **more: object) -> Json:
        return await self.post("/faults", {"kind": kind, **more})

    async def media_fault(self, mode: str, **more: object) -> Json:
        return await self.post("/media/faults", {"mode": mode, **more})

    async def realism(self, **switches: object) -> Json:
        """Set switches (and `profile`: kind, default or real); returns all of them."""
        return await self.post("/realism", switches)

    async def notify(self, kind: str = "all", **more: object) -> list[str]:
        """Send a notification of this type, or one of each; returns their ids."""
        items: list[Json] = (await self.post("/notification", {"type": kind, **more}))["items"]
        return [item["id"] for item in items]

    async def passkey(self) -> Json:
        """The last attempt at the passkey gate: its stage, the code on the phone's screen, problems, options."""
        return await self.get("/passkey")

    async def passkey_variant(self, **variant: str) -> Json:
        """Set how the next attempts at the passkey gate go; without arguments, normally."""
        return await self.post("/passkey", dict(variant))

    async def passkey_assert(self, options: Json | None = None, **lies: object) -> Json:
        """The owner's browser's answer to a WebAuthn request; without `options`, to the current one."""
        return await self.post("/passkey/assert", {"lies": lies, **({} if options is None else {"options": options})})

    async def passkey_confirm(self) -> None:
        """A person has seen the same code on both screens."""
        await self.post("/passkey/confirm", {})

    # The two verbs

    async def get(self, path: str, **query: int) -> Json:
        return _answer(await self._http.get(path, params=query))

    async def post(self, path: str, body: Json) -> Json:
        content = json.dumps(body)  # in ASCII: a lone surrogate passes unchanged
        return _answer(await self._http.post(path, content=content, headers={"content-type": "application/json"}))


def _receipt_key(message: Sent | str) -> Json | str:
    if isinstance(message, str):
        return message
    return {"id": message.id, "participant": message.participant} if message.participant else message.id


def _sent(answer: Json) -> Sent:
    media = answer.get("media") or {}
    return Sent(
        id=answer["id"],
        participant=answer.get("participant"),
        t=int(answer["t"] or 0),  # none if a test wrote words there
        sent_at_ms=float(answer["sent_at_ms"]),
        queued=bool(answer["queued"]),
        sha256=media.get("sha256"),
        path=media.get("path"),
    )


def _answer(response: httpx.Response) -> Json:
    body: Json = response.json()
    if response.is_error:
        raise PhoneError(f"{response.request.method} {response.request.url.path}: {body.get('error', body)}")
    return body
