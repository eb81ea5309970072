"""Everything that was sent in a run, and how it must come out at the other end. Knows no network and no database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from testkit.phone import Group, Person

# In every text that must not leave the worker: of unmonitored groups and direct messages.
FORBIDDEN = "nobody-but-us-7d1c"

Identity = tuple[str, str, str]  # chat, person's name, message id


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message.

    Attributes:
        person: who wrote it, by name.
        chat: the group; None for a direct message.
        text: as it must be stored.
        sha256: of its file.
        good: sent in good form, so that an ack or a stub that stays would be our fault.
        old: sent long before it can arrive, beyond the live window.
        sent: between which times, in seconds since 1970, as its stanza tells them.
        written: by when it was on the wire, in seconds since 1970; later than `sent` if it is old or held back.
    """

    id: str
    person: str
    chat: str | None
    text: str | None
    sha256: str | None = None
    monitored: bool
    good: bool = True
    old: bool = False
    kind: str
    phase: str
    sent: tuple[float, float]
    written: float = 0.0


@dataclass
class Ledger:
    """What was sent, by identity; and who is who."""

    people: dict[str, str] = field(default_factory=dict)  # user part of an address → name
    groups: dict[str, Group] = field(default_factory=dict)
    monitored: set[str] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    attackers: set[str] = field(default_factory=set)  # names; what they send in bad form is in no promise
    phase: str = "wide"

    def know(self, person: Person) -> None:
        for jid in (person.lid, person.pn):
            self.people[user_of(jid)] = person.name

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.kinds[entry.kind] = self.kinds.get(entry.kind, 0) + 1

    def mark_written(self, ids: Iterable[str], at: float) -> None:
        """These were held back until now."""
        held = set(ids)
        self.entries[:] = [replace(entry, written=at) if entry.id in held else entry for entry in self.entries]

    def name(self, jid: str | None) -> str:
        """Whose address this is; the address itself if nobody's."""
        return self.people.get(user_of(jid or ""), jid or "")

    def identity(self, chat: str, sender: str | None, message_id: str) -> Identity:
        return chat, self.name(sender), message_id

    def stored(self, phases: Iterable[str]) -> Mapping[Identity, Entry]:
        """What belongs into the table, of these phases."""
        wanted = set(phases)
        return {
            (entry.chat, entry.person, entry.id): entry
            for entry in self.entries
            if entry.monitored and entry.chat is not None and entry.phase in wanted
        }


def user_of(jid: str) -> str:
    """The part that says who, without server and device."""
    return jid.split("@")[0].split(":")[0]
