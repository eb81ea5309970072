"""The start page, the list of sessions, and a viewer's preferences."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from console.context import console_of, context_of
from console.database import Row
from console.rules.situations import Situation, judge
from console.texts import LANGUAGES
from console.viewer import PREFERENCE_SECONDS, THEMES, go_to, is_local_path, read_form

COLUMNS = "id,status,wa_name,wa_number,lease_expires_at,detail,updated_at"


async def start(request: Request) -> Response:
    """Go to this console's session: to its code if it is not linked, else to its messages."""
    context = context_of(request)
    situation = await context.situation()
    return go_to(f"{context.base}/{'feed' if situation.linked else 'link'}")


async def listed(request: Request) -> Response:
    context = context_of(request)
    rows = await context.database.read("sessions", lambda c: c.table("wa_sessions").select(COLUMNS).order("id"))
    now = datetime.now(UTC)
    return await context.show("sessions.html", {"rows": [row | {"situation": _situation(row, now)} for row in rows]})


async def prefer(request: Request) -> Response:
    """Set language or theme, in a separate cookie without any secret."""
    console = console_of(request)
    form = await read_form(request)
    back = form.get("back", "/")
    answer = go_to(back if is_local_path(back) else "/")
    wishes = {"language": set(LANGUAGES), "theme": set(THEMES)}
    secure = console.options.secure
    for name, allowed in wishes.items():
        wish = form.get(name, "")
        if wish in allowed:
            answer.set_cookie(name, wish, max_age=PREFERENCE_SECONDS, secure=secure, samesite="strict", httponly=True)
    return answer


def _situation(row: Row, now: datetime) -> Situation:
    """What the account's own page says, by this machine's clock."""
    expires_at = row.get("lease_expires_at")
    held = bool(expires_at) and datetime.fromisoformat(str(expires_at)) > now
    return judge(row | {"lease_held": held, "now": now.isoformat()})
