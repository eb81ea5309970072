"""The wire messages, exactly as in docs/protocol.md.

Unknown fields are refused: both sides are in this repository, and the fixtures in tests/wire keep them in step.
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
    """Open a socket. Drops the log of an older epoch, with its keys.

    `suspects`: hash of a stanza's first ciphertext → decrypt it alone, or not at all.
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
    """The groups whose messages are stored. For other chats, no sender is asked for another copy."""

    groups: list[str]


class Close(Wire):
    logout: bool
    drain_ms: int


class PairingCode(Wire):
    phone: Annotated[str, StringConstraints(pattern=r"^[0-9]{6,15}$")]


class AssertionResponse(Wire):
    """The signed part. WebAuthn's names, base64url values."""

    clientDataJSON: str
    authenticatorData: str
    signature: str
    userHandle: str | None


class Assertion(Wire):
    """A browser's passkey assertion, without other fields. Whoever has it can use it once: never log it."""

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
    """The socket exists. `version`: the version of WhatsApp Web that it claims."""

    version: Annotated[list[int], Field(min_length=3, max_length=3)]


class Closed(Wire):
    pending: int


class Code(Wire):
    """A pairing code that WhatsApp accepted, and how long it is valid."""

    code: str
    ttl_ms: int


class PasskeyOptions(Wire):
    """WebAuthn options as WhatsApp sent them; None if unreadable."""

    options: dict[str, Any] | None


class AskGroups(Wire):
    """`members_of`: groups whose members to return too. Costs no further query."""

    members_of: list[str] = Field(default_factory=list)


class Member(Wire):
    """`id`: the address that the group uses for the member; `also`: the other one, if given."""

    id: str
    also: str | None
    role: Literal["member", "admin", "superadmin"]


class Group(Wire):
    """`admins`: every address that the group's metadata gives for each admin. `members`: None if not requested."""

    id: str
    subject: str
    addressing_mode: str | None
    size: int | None
    admins: list[str]
    members: list[Member] | None = None


class Groups(Wire):
    """`asked_at_ms`: when the query was sent, by WhatsApp's clock."""

    groups: list[Group]
    asked_at_ms: float


class Refreshed(Wire):
    content: dict[str, Any]


class MediaHostList(Wire):
    """WhatsApp's media hosts, best first, and how many seconds the list is valid."""

    hosts: list[str]
    ttl_s: float


class Complete(Wire):
    """Everything on this connection (`epoch`) up to `to_ms` (WhatsApp's clock) is durable, backlog included."""

    epoch: int
    to_ms: float


class Pong(Wire):
    """The sidecar's figures, for the watchdogs and /metrics.

    `stuck_hash`: hash of the first ciphertext of the oldest stanza in work; `stuck_ms`: for how long it has been.
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
    """One `<message>` as it arrived, with the content of its ciphertexts.

    `undecrypted`: the whole stanza as JSON text, if it is a suspect and was not decrypted.
    `wanted`: false if the sidecar did not know that the group is monitored; no sender was asked for a copy.
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
    """Members became admins of a group or ceased to be; every address of each."""

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
    """One child of a group notification, as it arrived."""

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
    """One batch of the ordered log. `keys`: type → id → value, or null to delete it."""

    epoch: int
    seq: Annotated[int, Field(ge=1)]
    creds: str | None = None
    keys: dict[str, dict[str, str | None]] | None = None
    stanzas: list[Stanza]
    events: list[Event]


class Qr(Wire):
    """A QR code to scan. `qr` None: the last one expired, and only a pairing code is valid, for `ttl_ms`.

    `retired`: WhatsApp retired the previous code, perhaps while it was being scanned.
    """

    qr: str | None
    ttl_ms: int
    retired: bool = False


class PairingCodeRetired(Wire):
    """The current pairing code is no longer valid. `by_hand`: WhatsApp wants a person to ask for the next one."""

    by_hand: bool


class PasskeyRequested(Wire):
    """WhatsApp asks for the account's passkey before linking. `options`: WebAuthn's as received; None: none came."""

    options: dict[str, Any] | None


class PasskeyCode(Wire):
    """The code that the sidecar computed, for a person to compare with the phone's."""

    code: str


class PasskeyFailed(Wire):
    """A step of the exchange failed. `status`: WhatsApp's code, if it refused."""

    step: str
    status: int | None


class Me(Wire):
    id: str | None
    lid: str | None = None
    name: str | None = None


class CloseInfo(Wire):
    """Why a socket ended. The code and the message decide together (docs/whatsapp.md, "Closes")."""

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
    """`attrs`: the attributes that identify the stanza."""

    attrs: dict[str, str]
    at_ms: int


class Arrived(Wire):
    """Group messages that arrived but are not durable yet."""

    server_time_offset_ms: float | None
    stanzas: list[ArrivedStanza]


class Stalled(Wire):
    reason: str
    detail: dict[str, Any]


PasskeyNotice = PasskeyRequested | PasskeyCode | PasskeyFailed
Notification = Qr | PairingCodeRetired | PasskeyNotice | ConnectionState | Offline | Arrived | Stalled

# Method → model of its parameters. The fixtures in tests/wire are checked against these.
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
