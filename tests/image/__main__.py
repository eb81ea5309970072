"""`sudo .venv/bin/python -m tests.image`: start the image of `make image` as a container engine would, and look at it.

Checked: the QR in the log, the health check, that nothing outside the volume can be written, SIGTERM, a second start
with the same volume that needs no QR, one with a restored backup of it, and a rolling deployment: two containers on one
Supabase. IMAGE names the image, PREVIOUS the release before it, whose volume is taken over and which meets the new
schema. Not checked: an engine's own networks, resource limits and restart policy.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path

import anyio

from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from tests.image.box import mounted
from tests.image.checks import restarted, rolled

IMAGE = os.environ.get("IMAGE", "localhost/wa-worker:latest")
PREVIOUS = os.environ.get("PREVIOUS", IMAGE)


async def main(folder: Path) -> None:
    """Every check; the first that fails ends the run with its words, and the logs stay."""
    with mounted(IMAGE) as image, mounted(PREVIOUS) as previous:
        print(
            f"image {IMAGE}, before it {PREVIOUS}: user {image.user}, {shlex.join([*image.entrypoint, *image.command])}"
        )
        async with await VirtualPhone.start(folder) as phone:
            await phone.person("Ana")
            group = await phone.group("Market", ["Ana"])
            await restarted(previous, image, folder, phone, group.id)
        migrations = image.tree / image.folder.strip("/") / "supabase" / "migrations"
        async with (
            await VirtualPhone.start(folder) as phone,
            await EmbeddedSupabase.start(folder / "cloud", migrations) as cloud,
        ):
            await rolled(previous, image, folder, phone, cloud)
    print("all as it should be")


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="wa-image-"))
    place.chmod(0o711)  # the image's user passes through to its volumes
    print(f"logs and volumes, kept if something is wrong: {place}")
    anyio.run(main, place)
    shutil.rmtree(place)
