"""Linking the phone: by QR code with a second scan if WhatsApp wants one, by a code, and the passkey gate's verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from acceptance.record import claimed
from acceptance.running import Running
from acceptance.tester import Tester
from acceptance.verdict import Finding, not_met, passed_if, skipped
from demo.screen import Screen
from testkit.database import Row, parse_time
from worker.session.requests import ENTER_THE_NEW_CODE

LINK_SECONDS = 600.0  # several rounds of codes, a passkey; also a lease of 30 s that a killed run left behind
CALL_SECONDS = 60.0  # what needs nobody but WhatsApp
LOOK_SECONDS = 0.5
QR_LIFETIME = timedelta(seconds=61)  # the first code lives 60 s (docs/whatsapp.md, "Closes")
EARLY = timedelta(seconds=5)  # a code that is replaced so long before its end was retired by WhatsApp
RETIRED = "WhatsApp has retired the code before its end. An error on the phone is expected: scan the new code."
PASSKEY = "passkey_requested"  # in the audit log
REFUSED = "refused"


class Linking:
    """The phone's linking in one run; findings go to `note`, texts to the screen."""

    def __init__(
        self, running: Running, tester: Tester, screen: Screen, note: Callable[[Sequence[Finding]], None]
    ) -> None:
        self._running = running
        self._tester = tester
        self._screen = screen
        self._note = note
        self._retired = 0
        self.claimed = ""  # the version, once something is known of it

    async def scan(self) -> None:
        """Lines 1, 2, 10 and 11: link by a QR code, unless the account is linked and may stay so.

        Raises:
            AssertionError: nobody scanned in time, or the worker needs a person; lines 10 and 11 have their verdict.
        """
        shown = await self._connected()
        if shown is None and await self._tester.agrees(
            "This account is linked since an earlier run. Unlink it and scan a QR code again (lines 1 and 2)?"
        ):
            await self._unlink()
            shown = await self._connected()
        if shown is None:
            self._note(skipped((1, 2, 10, 11), "linked since an earlier run: no QR code was needed"))
            return
        row, seen_at = shown
        after = await self._running.database.session_row() or {}
        lives = parse_time(row["detail"]["expiresAt"]) - seen_at
        self._note(
            [
                passed_if(row["status"] == "connecting", 1, "status is connecting while the QR waits"),
                passed_if(after.get("status") == "connected", 1, "status is connected after the scan"),
                passed_if("qr" not in after.get("detail", {}), 1, "the QR is gone once it is used"),
                passed_if(after.get("wa_number"), 1, "wa_number is known"),
                passed_if(row["detail"]["qr"], 2, "the QR is in wa_sessions.detail"),
                passed_if(timedelta(0) < lives <= QR_LIFETIME, 2, f"expiresAt is {lives.total_seconds():.0f} s ahead"),
                await self._second_scan(linked=True),
                await self._passkey(linked=True),
            ]
        )

    async def by_code(self) -> None:
        """Line 12: unlink, and link once more by a code that is typed on the phone."""
        phone = await self._tester.number(
            "Unlink the account and link it by a code? The phone's number with its country code, or Enter to skip."
        )
        if not phone:
            self._note(skipped((12,), "skipped by the tester: linking by a code"))
            return
        database, tell = self._running.database, self._running.worker.child.tail
        last = await database.last_event()
        await self._unlink()
        try:
            await database.wait_qr(CALL_SECONDS, tell)
            await database.raise_flag("wa_pairing_code_requested", phone=phone)
            code = await database.until(
                "a code for the phone, or a refusal", self._code_since(last), CALL_SECONDS, tell
            )
            if code == REFUSED:
                self._note([passed_if(False, 12, "WhatsApp, or the worker, gave no code: the worker's log says why")])
                return
            await self._tester.type_code(code)
            await database.until("a linked phone", self._linked_by(code), LINK_SECONDS, tell, every=LOOK_SECONDS)
        except AssertionError as missed:
            self._note([passed_if(False, 12, _first_line(missed))])
            return
        self._note([passed_if(True, 12, "a code was given, and the phone is linked by it")])

    def _code_since(self, last: int) -> Callable[[], Awaitable[str | None]]:
        async def probe() -> str | None:
            code = (await self._running.database.detail()).get("pairing_code")
            if code:
                return str(code)
            errors = await self._running.database.events("error")
            return REFUSED if any(row["id"] > last for row in errors) else None

        return probe

    def _linked_by(self, shown: str) -> Callable[[], Awaitable[bool]]:
        """Whether the phone is linked, handing the tester each code that follows the one `shown`."""

        async def probe() -> bool:
            nonlocal shown
            if await self._linked():
                return True
            code = (await self._running.database.detail()).get("pairing_code")
            if code and code != shown:
                shown = str(code)
                self._screen.say(ENTER_THE_NEW_CODE)
                await self._tester.type_code(shown)
            return False

        return probe

    async def _unlink(self) -> None:
        database, tell = self._running.database, self._running.worker.child.tail
        await database.raise_flag("wa_disconnect_requested")
        await database.wait_status("disconnected", CALL_SECONDS, tell=tell)
        await database.wait_flag_handled("wa_disconnect_requested", CALL_SECONDS, tell=tell)
        await database.raise_flag("wa_refresh_qr_requested")

    async def _connected(self) -> tuple[Row, datetime] | None:
        """Wait until the account is linked, handing each new QR to the tester.

        The session's row as it was when the last QR waited, and when that was; None if none was needed.
        """
        database = self._running.database
        last: tuple[str, Row, datetime] | None = None

        async def probe() -> bool:
            nonlocal last
            if await self._linked():
                return True
            row = await database.session_row() or {}
            detail = row.get("detail") or {}
            if detail.get("qr") and detail.get("expiresAt") and (last is None or last[0] != detail["qr"]):
                if last and datetime.now(UTC) < parse_time(last[1]["detail"]["expiresAt"]) - EARLY:
                    self._retired += 1
                    self._screen.say(RETIRED)
                last = detail["qr"], row, datetime.now(UTC)
                await self._tester.scan(detail["qr"])
            return False

        tell = self._running.worker.child.tail
        try:
            await database.until("a linked phone", probe, LINK_SECONDS, tell, every=LOOK_SECONDS)
        except AssertionError as missed:
            self.claimed = claimed(await database.session_row())
            failure = passed_if(False, 1, _first_line(missed))
            self._note([failure, await self._second_scan(linked=False), await self._passkey(linked=False)])
            raise
        row = await database.session_row() or {}
        self.claimed = claimed(row)
        self._screen.say(f"Connected as {row.get('wa_name') or 'this account'}.")
        return last[1:] if last else None

    async def _linked(self) -> bool:
        """Whether it is.

        Raises:
            AssertionError: the worker has ended, or waits for a person, so that no code comes.
        """
        self._running.check()
        if await self._running.database.status() == "connected":
            return await self._running.connected()
        answer = await self._running.worker.get("/readyz")  # the session's row may be one that an earlier worker left
        session = (answer.json()["session"] if answer is not None else None) or {}
        if session.get("state") == "needs_you" and not await self._ceremony():
            raise AssertionError(f"the phone was not linked: {session['say']}")
        return False

    async def _ceremony(self) -> bool:
        """A request for the passkey is open, and a person answers it in another terminal (WORKER_PASSKEY)."""
        return "passkey" in await self._running.database.detail()

    async def _second_scan(self, *, linked: bool) -> Finding:
        if not self._retired:
            return not_met(10, "WhatsApp retired no code")
        return passed_if(
            linked, 10, f"WhatsApp retired {self._retired} code(s); the one that followed linked the phone"
        )

    async def _passkey(self, *, linked: bool) -> Finding:
        detail = await self._running.database.detail()
        asked = [row for row in await self._running.database.events(PASSKEY) if row["id"] > self._running.before]
        if not asked and "passkey" not in str(detail.get("say")):
            return not_met(11, "WhatsApp did not ask for a passkey")
        return passed_if(linked, 11, "WhatsApp asked for the account's passkey, and the phone was linked with it")


def _first_line(missed: AssertionError) -> str:
    return str(missed).partition("\n")[0]
