"""Settings that a session may override, in `wa_sessions.settings`, instead of using its host's.

One model for the writer of the column (`wa-worker sessions`) and for the host that reads it. An unknown name or a value
out of bounds invalidates the whole document: a session is never served with half of what was meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from worker.errors import SettingsError
from worker.outbound import checked_proxy
from worker.settings import (
    CatchUp,
    ChangesDays,
    Days,
    Expire,
    LiveWindow,
    MaxMedia,
    MediaConcurrency,
    QrAgain,
    Revoke,
    Settings,
    complaint,
)

PREFIX = "worker_"  # `catch_up_s` overrides WORKER_CATCH_UP_S, and so on


class SessionSettings(BaseModel):
    """Missing or null fields use the host's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    proxy: SecretStr | None = Field(None, description="HTTP proxy for WhatsApp: the socket, files, the client version")
    live_window_s: LiveWindow | None = Field(None, description="WORKER_LIVE_WINDOW_S")
    catch_up_s: CatchUp | None = Field(None, description="WORKER_CATCH_UP_S")
    revoke: Revoke | None = Field(None, description="WORKER_REVOKE")
    expire: Expire | None = Field(None, description="WORKER_EXPIRE")
    keep_days: Days | None = Field(None, description="WORKER_KEEP_DAYS")
    audit_days: Days | None = Field(None, description="WORKER_AUDIT_DAYS")
    changes_days: ChangesDays | None = Field(None, description="WORKER_CHANGES_DAYS")
    max_media_mb: MaxMedia | None = Field(None, description="WORKER_MAX_MEDIA_MB")
    max_document_mb: MaxMedia | None = Field(None, description="WORKER_MAX_DOCUMENT_MB")
    media_concurrency: MediaConcurrency | None = Field(None, description="WORKER_MEDIA_CONCURRENCY")
    qr_again_s: QrAgain | None = Field(None, description="WORKER_QR_AGAIN_S")
    passkey: bool | None = Field(None, description="WORKER_PASSKEY")

    @field_serializer("proxy")
    def _shown(self, proxy: SecretStr | None) -> str | None:
        return proxy.get_secret_value() if proxy else None

    def document(self) -> dict[str, Any]:
        """The form that is stored: only fields that are set."""
        return self.model_dump(mode="json", exclude_none=True)

    def over(self, host: Settings, session: str) -> Settings:
        """The settings of this session on this host.

        Raises:
            SettingsError: two settings conflict.
        """
        own = self.model_dump(exclude_none=True, exclude={"proxy"})
        renamed = {PREFIX + name: value for name, value in own.items()}
        settings = host.of_session(session, renamed, self._shown(self.proxy))
        try:
            return settings.checked_together()
        except ValueError as wrong:
            raise SettingsError(f"settings: {wrong}") from None


def parse_session_settings(document: object) -> SessionSettings:
    """The settings of a session from the document in its row.

    Raises:
        SettingsError: one line per invalid setting; never repeats a value.
    """
    try:
        if not isinstance(document, Mapping):
            raise SettingsError("settings: should be an object of names and values")
        settings = SessionSettings.model_validate(dict(document))
    except ValidationError as wrong:
        raise SettingsError("\n".join(_line(error) for error in wrong.errors())) from None
    if settings.proxy is None:
        return settings
    return settings.model_copy(
        update={"proxy": SecretStr(checked_proxy(settings.proxy.get_secret_value(), "settings.proxy"))}
    )


def _line(error: Any) -> str:
    name = str(error["loc"][0])[:64]
    if error["type"] == "extra_forbidden":
        known = ", ".join(SessionSettings.model_fields)
        return f"settings.{name}: there is no such setting of a session; there are {known}"
    return complaint(PREFIX + name, error, f"settings.{name}")
