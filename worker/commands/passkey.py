"""Answers WhatsApp's passkey request at a terminal, with a script for the owner's browser.

The whole script is shown, and is the one in docs/passkey.md: people should read what they paste into a console.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker.commands.show import err, out
from worker.session.flags import RequestKind
from worker.session.passkey import PASTED_MAX, read_assertion
from worker.store import Store

SCRIPT = r"""
(() => {
  const request = REQUEST
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0))
  const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
  const text = (buffer) => base64(buffer).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
  const copyText = typeof copy === 'function' ? copy : () => {}
  const publicKey = {
    ...request,
    challenge: bytes(request.challenge),
    allowCredentials: request.allowCredentials.map((one) => ({ ...one, id: bytes(one.id) })),
  }
  addEventListener('click', async (event) => {
    event.preventDefault()
    event.stopPropagation()
    const { id, rawId, type, response } = await navigator.credentials.get({ publicKey })
    const { clientDataJSON, authenticatorData, signature, userHandle } = response
    const answer = JSON.stringify({
      id, rawId: text(rawId), type,
      response: {
        clientDataJSON: text(clientDataJSON), authenticatorData: text(authenticatorData), signature: text(signature),
        userHandle: userHandle ? text(userHandle) : null,
      },
    }, null, 1)
    console.log(answer)
    copyText(answer)
  }, { once: true, capture: true })
  console.log('Now click anywhere on the page, and use the passkey.')
})()
"""
STEPS = """\
WhatsApp asks for this account's passkey.
1. Open https://web.whatsapp.com in a browser that can use it. You need not log in there.
2. Open the developer tools (F12), tab Console, and paste the script below. The browser may ask you to allow pasting.
3. Click on the page, and use the passkey.
4. Paste what the script prints here (it is copied already), then Enter.
Run it only because you are linking this worker yourself. What it sees and does not see: docs/passkey.md.
"""
QUESTION = "Does the phone show the same code? y or n, then Enter."


def make_script(options: Mapping[str, Any]) -> str:
    """The script with the request inserted. JSON is valid JavaScript, and escaped JSON cannot break out of it."""
    return SCRIPT.strip().replace("REQUEST", json.dumps(options), 1)


class PasskeyDialogue:
    """Shows the request in `detail.passkey`, and raises the flags that answer it."""

    def __init__(self, session: str, store: Store) -> None:
        self._session = session
        self._store = store
        self._asked: Mapping[str, Any] = {}
        self._pasted = ""

    def show(self, passkey: Mapping[str, Any]) -> None:
        """Show the current request, once."""
        if passkey == self._asked:
            return
        self._asked, self._pasted = passkey, ""
        if "options" in passkey:
            err().print(STEPS, markup=False)
            print(make_script(passkey["options"]), flush=True)
        elif "code" in passkey:
            out().print(f"Code: {passkey['code']}", markup=False)
            err().print(QUESTION, markup=False)

    async def take(self, line: str) -> None:
        """Handle a typed or pasted line."""
        if "options" in self._asked:
            await self._take_answer(line, str(self._asked["options"].get("challenge")))
        elif "code" in self._asked:
            await self._take_comparison(line)

    async def _take_answer(self, line: str, challenge: str) -> None:
        """Collect the answer, which has several lines because terminals cut long ones."""
        self._pasted = line if line.startswith("{") and not _is_open(self._pasted) else self._pasted + line
        if _is_open(self._pasted) or not self._pasted:
            return
        assertion = read_assertion(self._pasted, challenge)
        self._pasted = ""
        if isinstance(assertion, str):
            err().print(f"Not sent: {assertion}.", markup=False)
            return
        await self._raise(RequestKind.PASSKEY_ANSWERED, {"assertion": assertion.model_dump()})
        err().print("Sent.", markup=False)

    async def _take_comparison(self, line: str) -> None:
        if line.casefold()[:1] not in ("y", "n"):
            err().print(QUESTION, markup=False)
            return
        same = line.casefold().startswith("y")
        await self._raise(RequestKind.PASSKEY_COMPARED, {"code": self._asked["code"], "same": same})
        self._asked = {}

    async def _raise(self, ask: RequestKind, given: Mapping[str, Any]) -> None:
        await self._store.console.raise_flag(self._session, ask.value, given)


def _is_open(pasted: str) -> bool:
    """Whether the pasted object is still incomplete."""
    return pasted.startswith("{") and len(pasted) <= PASTED_MAX and pasted.count("{") > pasted.count("}")
