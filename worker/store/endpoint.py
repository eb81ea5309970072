"""The small files beside the embedded Supabase: its address and its generated keys.

Both have mode 0600 and are written atomically. An endpoint file may outlive its server: check that it answers.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from worker.errors import SettingsError, StoreUnavailable

ENDPOINT_FILE: Final = "embedded.endpoint.json"
KEYS_FILE: Final = "embedded.keys.json"
PORTS: Final = range(20_000, 32_000)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running embedded Supabase. `owned`: this process started it."""

    url: str
    key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    pid: int
    owned: bool


def read_endpoint(data_dir: Path) -> Endpoint | None:
    """The server named in the endpoint file, which may have ended since; None if there is no valid file."""
    try:
        return Endpoint(**json.loads((data_dir / ENDPOINT_FILE).read_text()), owned=False)
    except (OSError, ValueError, TypeError):
        return None


def write_endpoint(data_dir: Path, endpoint: Endpoint) -> None:
    """Publish the server to other commands and a second worker. Omits `owned`, which differs per process."""
    document = asdict(endpoint)
    del document["owned"]
    _write_private(data_dir / ENDPOINT_FILE, json.dumps(document))


def withdraw_endpoint(data_dir: Path) -> None:
    """Remove the endpoint file: the server has stopped."""
    (data_dir / ENDPOINT_FILE).unlink(missing_ok=True)


def load_keys(data_dir: Path) -> dict[str, str]:
    """The keys `secret`, `publishable` and `jwt`. Generates them at the first call."""
    path = data_dir / KEYS_FILE
    if not path.exists():
        keys = {
            "secret": f"sb_secret_{secrets.token_hex(24)}",
            "publishable": f"sb_publishable_{secrets.token_hex(24)}",
            "jwt": secrets.token_hex(32),
        }
        _write_private(path, json.dumps(keys))
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read; remove it to generate new keys") from error


def free_port() -> int:
    """A free loopback port.

    Below the ephemeral range: a client that keeps connecting to a stopped server could otherwise get the server's port
    as its own source port, and talk to itself.
    """
    for port in random.sample(PORTS, 100):
        if is_free(port):
            return port
    raise StoreUnavailable("no free port on 127.0.0.1")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_private(path: Path, text: str) -> None:
    """Write a file atomically, with mode 0600."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    draft.replace(path)
