"""whatsmeow, as PyPI's neonize carries it, as a client of the virtual phone. Prints what it sees, as baileys.js does.

whatsmeow has WhatsApp's address and root key in it: the address is led here by a proxy, and the key is replaced in a
copy of the library before it is loaded. That copy belongs to a virtual environment of its own (clients/install.js).
"""

import base64
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT_KEY = bytes.fromhex("142375574d0a587166aae71ebe516437c4a28b73e3695c6ce1f7f9545da8ee6b")


def trust(root_key: bytes) -> None:
    """Put this root key in the place of WhatsApp's, or of the one that an earlier run has put there."""
    library = next(Path(path, "neonize") for path in sys.path if Path(path, "neonize").is_dir())
    [binary] = library.glob("neonize-*.so")
    kept = binary.with_suffix(".original")
    if not kept.exists():
        binary.rename(kept)
    content = kept.read_bytes()
    if content.count(ROOT_KEY) != 1:
        raise SystemExit("whatsmeow's root key was not found once in the library")
    binary.write_bytes(content.replace(ROOT_KEY, root_key))


trust(base64.b64decode(os.environ["PHONE_ROOT_KEY"]))
os.chdir(tempfile.mkdtemp(prefix="whatsmeow-"))  # its database is a file in the working folder

from neonize.client import NewClient  # noqa: E402
from neonize.events import ConnectedEv, MessageEv  # noqa: E402


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


client = NewClient("phone.sqlite3")


@client.event.qr
def on_qr(_: NewClient, qr: bytes) -> None:
    tell(event="qr", qr=qr.decode())


@client.event(ConnectedEv)
def on_open(_: NewClient, __: ConnectedEv) -> None:
    tell(event="open")


@client.event(MessageEv)
def on_message(_: NewClient, received: MessageEv) -> None:
    message = received.Message
    text = message.conversation or message.extendedTextMessage.text
    if text:
        tell(event="text", id=received.Info.ID, text=text)
    if message.HasField("imageMessage"):
        content = client.download_any(message)
        tell(event="media", id=received.Info.ID, sha256=hashlib.sha256(content).hexdigest())


client.connect()
