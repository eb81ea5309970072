"""What happened in a group, from the children of its `w:gp2` notification: a sentence and the facts.

Knows the tags that whatsmeow reads, and more. An unknown tag also becomes a row, with its attributes in `raw`.
`docs/kinds.md`, "Notices", lists the facts.
"""

from __future__ import annotations

from collections.abc import Callable

from worker.bridge.protocol import Notice
from worker.ingest.rules.classify import Content
from worker.ingest.rules.content import SYSTEM
from worker.ingest.rules.facts import disappearing
from worker.ingest.rules.fields import MAX_CHARS, MAX_ENTRIES, Facts, as_number, as_time, some
from worker.ingest.rules.jids import PHONE_SERVER, parse_jid
from worker.text import clean_name

NAMED = 5  # people named in a sentence; the facts list all of them

Sentence = Callable[[Facts], str]


def notice_content(notice: Notice, by: str | None) -> Content:
    """The content for one child. `by`: who did it, as the notification names them."""
    facts = _facts(notice)
    if notice.tag == "remove" and [person["who"] for person in facts.get("people", ())] == [by]:
        facts["notice"] = "leave"
    sentence = _SENTENCES.get(facts["notice"])
    text = sentence(facts) if sentence else f"Something changed in the group: {notice.tag[:64]}."
    return Content(kind=SYSTEM, text=text, facts=facts)


def _facts(notice: Notice) -> Facts:
    facts: Facts = {"notice": notice.tag[:64]}
    read = _READERS.get(notice.tag)
    return facts | (read(notice) if read else {}) | some("people", _people(notice))


def _people(notice: Notice) -> list[Facts]:
    """The people concerned, at most `MAX_ENTRIES`. Omits the members of a new group (docs/contract.md §6)."""
    found = []
    for each in notice.children if notice.tag != "create" else ():
        if each.tag not in ("participant", "requested_user") or "jid" not in each.attrs:
            continue
        other = each.attrs.get("phone_number") or each.attrs.get("lid")
        found.append({"who": each.attrs["jid"][:256]} | ({"also": other[:256]} if other else {}))
    return found[:MAX_ENTRIES]


# The facts of each tag


def _subject(notice: Notice) -> Facts:
    return _said("name", notice.attrs.get("subject"))


def _create(notice: Notice) -> Facts:
    group = next((child for child in notice.children if child.tag == "group"), None)
    return {} if group is None else _subject(group)


def _description(notice: Notice) -> Facts:
    body = next((child.text for child in notice.children if child.tag == "body"), None)
    return {"description": body[:MAX_CHARS]} if body else {}


def _ephemeral(notice: Notice) -> Facts:
    seconds = as_number(notice.attrs.get("expiration"))
    return {"expires_after_s": seconds} if seconds is not None and seconds > 0 else {}


def _linked(notice: Notice) -> Facts:
    groups = [
        {"group": child.attrs["jid"][:256]} | _said("name", child.attrs.get("subject"))
        for child in notice.children
        if child.tag == "group" and "jid" in child.attrs
    ]
    sort = notice.attrs.get("link_type") or notice.attrs.get("unlink_type")
    return _said("link_type", sort) | some("groups", groups[:MAX_ENTRIES])


def _invite(notice: Notice) -> Facts:
    return _said("code", notice.attrs.get("code"))


def _mode(notice: Notice) -> Facts:
    return _said("mode", notice.text)


def _approval(notice: Notice) -> Facts:
    state = next((child.attrs.get("state") for child in notice.children if child.tag == "group_join"), None)
    return _said("mode", state)


def _requests(notice: Notice) -> Facts:
    return _said("method", notice.attrs.get("request_method"))


def _growth(notice: Notice) -> Facts:
    until = as_time(notice.attrs.get("expiration"))
    return _said("type", notice.attrs.get("type")) | ({"until": until} if until else {})


def _said(name: str, value: str | None) -> Facts:
    cleaned = clean_name(value)
    return {} if cleaned is None else {name: cleaned}


_READERS: dict[str, Callable[[Notice], Facts]] = {
    "create": _create,
    "subject": _subject,
    "description": _description,
    "ephemeral": _ephemeral,
    "link": _linked,
    "unlink": _linked,
    "invite": _invite,
    "member_add_mode": _mode,
    "membership_approval_mode": _approval,
    "created_membership_requests": _requests,
    "growth_locked": _growth,
}


# The sentences


def _fixed(sentence: str) -> Sentence:
    return lambda _: sentence


def _about_people(one: str, many: str) -> Sentence:
    def say(facts: Facts) -> str:
        people = facts.get("people", [])
        named = ", ".join(_shown(person) for person in people[:NAMED])
        more = f" and {len(people) - NAMED} more" if len(people) > NAMED else ""
        verb = one if len(people) <= 1 else many
        return f"{named or 'Somebody'}{more} {verb}."

    return say


def _shown(person: Facts) -> str:
    """The number if known, since people do not recognise LIDs."""
    found = [jid for address in (person["who"], person.get("also")) if (jid := parse_jid(address)) is not None]
    number = next((jid for jid in found if jid.server == PHONE_SERVER), None)
    return f"+{number.user}" if number else str(found[0]) if found else "somebody"


def _quoted(facts: Facts, name: str, otherwise: str) -> str:
    return f"“{facts[name]}”" if name in facts else otherwise


def _linked_groups(verb: str) -> Sentence:
    def say(facts: Facts) -> str:
        names = ", ".join(_quoted(group, "name", group["group"]) for group in facts.get("groups", [])[:NAMED])
        return f"The group was {verb} {names or 'a community'}."

    return say


_SENTENCES: dict[str, Sentence] = {
    "create": lambda facts: f"The group {_quoted(facts, 'name', '')} was created.".replace("  ", " "),
    "subject": lambda facts: f"The group is now called {_quoted(facts, 'name', 'something else')}.",
    "description": lambda facts: (
        f"The description is now: {facts['description']}" if "description" in facts else "The description was removed."
    ),
    "add": _about_people("was added", "were added"),
    "remove": _about_people("was removed", "were removed"),
    "leave": _about_people("left", "left"),
    "promote": _about_people("is now an admin", "are now admins"),
    "demote": _about_people("is no longer an admin", "are no longer admins"),
    "modify": _about_people("has a new number", "have new numbers"),
    "change_number": _about_people("has a new number", "have new numbers"),
    "announcement": _fixed("Only admins can send messages."),
    "not_announcement": _fixed("Everybody can send messages."),
    "locked": _fixed("Only admins can edit the group's info."),
    "unlocked": _fixed("Everybody can edit the group's info."),
    "ephemeral": disappearing,
    "not_ephemeral": disappearing,
    "delete": _fixed("The group was deleted."),
    "suspended": _fixed("WhatsApp has suspended the group."),
    "unsuspended": _fixed("The group is no longer suspended."),
    "growth_locked": _fixed("WhatsApp lets nobody join the group for now."),
    "growth_unlocked": _fixed("People can join the group again."),
    "link": _linked_groups("linked to"),
    "unlink": _linked_groups("unlinked from"),
    "invite": _fixed("The invite link was changed."),
    "revoke_invite": _fixed("The invite link was revoked."),
    "member_add_mode": _fixed("Who may add members was changed."),
    "membership_approval_mode": lambda facts: (
        f"Admins {'approve' if facts.get('mode') == 'on' else 'no longer approve'} new members."
    ),
    "created_membership_requests": _about_people("asked to join", "asked to join"),
    "revoked_membership_requests": _about_people(
        "does not join: the request was withdrawn or refused", "do not join: the requests were withdrawn or refused"
    ),
    "allow_admin_reports": _fixed("Messages can be reported to admins."),
    "not_allow_admin_reports": _fixed("Messages can no longer be reported to admins."),
}
