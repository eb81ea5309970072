"""The messages of the wire, exactly as in docs/protocol.md.

Unknown fields are refused: both sides live in one repository, and the fixtures in tests/wire hold them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

SOCKET_OPEN = -32001  # `connect` while a socket is open
REFUSED = -32000  # our answer when a handler fails; `data.reason` says how

Reason = Literal["unavailable", "stale", "unreadable"]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Wire(BaseModel):
    """One object on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


# Worker → sidecar


class ConnectParameters(Wire):
    """Make a socket. The log of an older epoch is dropped, together with its keys.

    `suspects`: by the hash of a stanza's first ciphertext, whether to decrypt it alone or not at all.
    """

    epoch: int
    browser: Annotated[list[str], Field(min_length=3, max_length=3)]
    version: Annotated[list[int], Field(min_length=3, max_length=3)] | None
    socket_url: str | None
    root_key: str | None
    offline_hold_ms: int
    strict_certs: bool
    nack_undecryptable: bool
    max_log_bytes: int
    qr_timeout_ms: int | None
    keep_alive_ms: int | None
    suspects: dict[Hash, Literal["alone", "unread"]] = Field(default_factory=dict)


class Monitor(Wire):
    """The groups whose messages are stored. Nobody is asked for another copy of what comes from others."""

    groups: list[str]


class Close(Wire):
    logout: bool
    drain_ms: int


class PairingCode(Wire):
    phone: Annotated[str, StringConstraints(pattern=r"^[0-9]{6,15}$")]


class AssertionResponse(Wire):
    """The signed part; names are WebAuthn's, values base64url."""

    clientDataJSON: str
    authenticatorData: str
    signature: str
    userHandle: str | None


class Assertion(Wire):
    """What a browser's passkey gives, with nothing beside it. Whoever has it can use it once: never logged."""

    id: str
    rawId: str
    type: Literal["public-key"]
    response: AssertionResponse

    def __repr__(self) -> str:
        return "Assertion(…)"


class PasskeyAssertion(Wire):
    assertion: Assertion


class MediaRefresh(Wire):
    key: dict[str, Any]
    content: dict[str, Any]


class Nothing(Wire):
    """No parameters, or no result."""


class Connected(Wire):
    """The socket exists; `version` is the one of WhatsApp Web that it claims."""

    version: Annotated[list[int], Field(min_length=3, max_length=3)]


class Closed(Wire):
    pending: int


class Code(Wire):
    """A pairing code that WhatsApp has agreed to, and how long it can be typed."""

    code: str
    ttl_ms: int


class PasskeyOptions(Wire):
    """WebAuthn's options as WhatsApp sent them; None: none that can be read."""

    options: dict[str, Any] | None


class AskGroups(Wire):
    """`members_of`: the groups whose members are wanted too; WhatsApp is asked for nothing more."""

    members_of: list[str] = Field(default_factory=list)


class Member(Wire):
    """`id`: the address by which the group names them; `also`: the other one, if it was told."""

    id: str
    also: str | None
    role: Literal["member", "admin", "superadmin"]


class Group(Wire):
    """`admins`: every address of each admin that the group's metadata tells. `members`: None if they are not wanted."""

    id: str
    subject: str
    addressing_mode: str | None
    size: int | None
    admins: list[str]
    members: list[Member] | None = None


class Groups(Wire):
    """`asked_at_ms`: WhatsApp's time of the question."""

    groups: list[Group]
    asked_at_ms: float


class Refreshed(Wire):
    content: dict[str, Any]


class MediaHostList(Wire):
    """WhatsApp's hosts of files, the best one first, and for how many seconds that holds."""

    hosts: list[str]
    ttl_s: float


class Complete(Wire):
    """What arrived on this connection (`epoch`) until `to_ms`, by WhatsApp's clock, is durable, and the backlog too."""

    epoch: int
    to_ms: float


class Pong(Wire):
    """The sidecar's figures, for the watchdogs and /metrics.

    `stuck_hash`: the stanza that would be to blame for a stall, by its first ciphertext; `stuck_ms`: for how long.
    """

    rss_bytes: int
    heap_bytes: int
    log_items: int
    log_bytes: int
    log_bytes_max: int
    held_frames: int
    longest_hold_ms: float
    open_sections: int
    loop_lag_ms: float
    stanzas_in: int
    stanzas_out: int
    stuck_ms: float | None
    stuck_hash: Hash | None
    last_stanza_at_ms: float | None
    last_group_stanza_at_ms: float | None
    swallowed: int
    complete: Complete | None


# Sidecar → worker


class StateGet(Wire):
    type: str
    ids: list[str]


class StanzasKnown(Wire):
    hashes: list[Hash]


class Stanza(Wire):
    """One `<message>` as it arrived, with what its ciphertexts held.

    `undecrypted`: it was not decrypted, because it is a suspect; the whole of it as JSON text.
    `wanted`: false for a group of which the sidecar had not heard that it is monitored; nobody was asked for a copy.
    """

    attrs: dict[str, str]
    key: dict[str, Any] | None
    arrived_at_ms: int
    server_time_offset_ms: float | None
    content: dict[str, Any] | None
    failure: str | None
    hashes: list[Hash]
    retry_count: int
    unavailable: str | None
    undecrypted: str | None = None
    wanted: bool = True


class GroupEvent(Wire):
    type: Literal["group"]
    id: str
    subject: str | None = None
    left: bool
    admins: list[str] | None = None


class AdminsEvent(Wire):
    """Some were made admins of a group, or are none any more; every address of each."""

    type: Literal["admins"]
    id: str
    promoted: list[str]
    demoted: list[str]


class IdentityEvent(Wire):
    type: Literal["identity"]
    lid: str
    pn: str


class ResendEvent(Wire):
    type: Literal["resend"]
    key: dict[str, Any]
    content: dict[str, Any]
    t: str
    push_name: str | None


class Notice(Wire):
    """One child of a group's notification, as it stood on the wire."""

    tag: str
    attrs: dict[str, str]
    text: str | None
    children: list[Notice]


class NoticeEvent(Wire):
    type: Literal["notice"]
    key: dict[str, Any]
    notices: list[Notice]
    t: str


class SystemEvent(Wire):
    type: Literal["system"]
    key: dict[str, Any]
    stub_type: str
    stub_parameters: list[str]
    t: str


Event = Annotated[
    GroupEvent | AdminsEvent | IdentityEvent | ResendEvent | NoticeEvent | SystemEvent, Field(discriminator="type")
]


class Commit(Wire):
    """One batch of the ordered log. `keys` maps type → id → value, or null for a deletion."""

    epoch: int
    seq: Annotated[int, Field(ge=1)]
    creds: str | None = None
    keys: dict[str, dict[str, str | None]] | None = None
    stanzas: list[Stanza]
    events: list[Event]


class Qr(Wire):
    """A code to scan; None: the last has run out, and a pairing code alone is good for `ttl_ms`.

    `retired`: WhatsApp has retired the code before it, perhaps while it was scanned.
    """

    qr: str | None
    ttl_ms: int
    retired: bool = False


class PairingCodeRetired(Wire):
    """The pairing code that is out links nothing any more. `by_hand`: WhatsApp wants a person to ask for the next."""

    by_hand: bool


class PasskeyRequested(Wire):
    """WhatsApp asks for the account's passkey before it links. `options`: WebAuthn's, as they came; None: none did."""

    options: dict[str, Any] | None


class PasskeyCode(Wire):
    """The code that this side computed; a person compares it with the phone's."""

    code: str


class PasskeyFailed(Wire):
    """A step of the exchange failed by itself; `status`: WhatsApp's code, if it refused."""

    step: str
    status: int | None


class Me(Wire):
    id: str | None
    lid: str | None = None
    name: str | None = None


class CloseInfo(Wire):
    """Why a socket ended: the code and the message decide together (docs/whatsapp.md, "Closes")."""

    code: int | None
    message: str
    data: Any = None
    phase: Literal["connecting", "pairing", "open"]


class ConnectionState(Wire):
    state: Literal["connecting", "open", "close"]
    is_new_login: bool = False
    me: Me | None = None
    server_time_offset_ms: float | None = None
    close: CloseInfo | None = None


class Offline(Wire):
    count: int


class ArrivedStanza(Wire):
    """`attrs`: those by which it is known again."""

    attrs: dict[str, str]
    at_ms: int


class Arrived(Wire):
    """Group messages that have arrived and are not durable yet."""

    server_time_offset_ms: float | None
    stanzas: list[ArrivedStanza]


class Stalled(Wire):
    reason: str
    detail: dict[str, Any]


PasskeyNotice = PasskeyRequested | PasskeyCode | PasskeyFailed
Notification = Qr | PairingCodeRetired | PasskeyNotice | ConnectionState | Offline | Arrived | Stalled

# Method → model of its parameters; what the fixtures in tests/wire are checked against.
TO_SIDECAR: dict[str, type[Wire]] = {
    "connect": ConnectParameters,
    "monitor": Monitor,
    "close": Close,
    "pairing_code": PairingCode,
    "passkey_options": Nothing,
    "passkey_assertion": PasskeyAssertion,
    "passkey_confirm": Nothing,
    "groups": AskGroups,
    "media_refresh": MediaRefresh,
    "media_hosts": Nothing,
    "ping": Nothing,
}
RESULTS_OF_SIDECAR: dict[str, type[Wire]] = {
    "connect": Connected,
    "monitor": Nothing,
    "close": Closed,
    "pairing_code": Code,
    "passkey_options": PasskeyOptions,
    "passkey_assertion": Nothing,
    "passkey_confirm": Nothing,
    "groups": Groups,
    "media_refresh": Refreshed,
    "media_hosts": MediaHostList,
    "ping": Pong,
}
TO_WORKER: dict[str, type[Wire]] = {
    "state.load": Nothing,
    "state.get": StateGet,
    "stanzas.known": StanzasKnown,
    "commit": Commit,
}
NOTIFICATIONS: dict[str, type[Wire]] = {
    "qr": Qr,
    "pairing_code_retired": PairingCodeRetired,
    "passkey_requested": PasskeyRequested,
    "passkey_code": PasskeyCode,
    "passkey_failed": PasskeyFailed,
    "connection": ConnectionState,
    "offline": Offline,
    "arrived": Arrived,
    "stalled": Stalled,
}


class Loaded(Wire):
    creds: str | None


class Values(Wire):
    values: dict[str, str]


class Known(Wire):
    known: list[Hash]


class Committed(Wire):
    seq: int


RESULTS_OF_WORKER: dict[str, type[Wire]] = {
    "state.load": Loaded,
    "state.get": Values,
    "stanzas.known": Known,
    "commit": Committed,
}


class Refusal(Wire):
    """`error.data` of a failed `commit` or state call."""

    reason: Reason


REFUSAL: TypeAdapter[Refusal] = TypeAdapter(Refusal)
