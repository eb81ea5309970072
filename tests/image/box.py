"""A container without an engine: the image's files, mounted by buildah, and its command in namespaces of its own.

For machines on which no container engine can run. The command runs as the image's user, with no capability and
no-new-privileges, on a read-only root with a /tmp in memory and a volume at /data.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testkit.processes import Child, alive, descendants, free_port
from testkit.worker import Worker

STOP_GRACE_SECONDS = 20.0  # as in docker-compose.yml
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
# Runs as process 1 of new mount and process namespaces; the file tree is the image's, mounted read-only.
BOX = """
set -e
mount --make-rprivate /
mount --bind "$TREE" "$TREE"
mount -o remount,bind,ro "$TREE"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$TREE/tmp"
mount --bind "$VOLUME" "$TREE/data"
mount --rbind /dev "$TREE/dev"
mount -t proc proc "$TREE/proc"
exec chroot "$TREE" setpriv --reuid "${OWNER%:*}" --regid "${OWNER#*:}" --clear-groups \
  --bounding-set=-all --inh-caps=-all --no-new-privs -- env -i -C "$FOLDER" "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What the image says of itself, and its files mounted somewhere."""

    tree: Path
    user: str
    folder: str
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    stop_signal: str
    health: tuple[str, ...]


class Container:
    """One running container."""

    def __init__(self, image: Image, volume: Path, port: int, child: Child) -> None:
        self.image = image
        self.volume = volume
        self.child = child
        self.worker = Worker(child, port, volume)

    @classmethod
    def start(cls, image: Image, folder: Path, name: str, volume: Path, settings: Mapping[str, str]) -> Container:
        """Start the image's command with these settings."""
        volume.mkdir(exist_ok=True)
        shutil.chown(volume, *(int(part) for part in image.user.split(":")))
        port = free_port()
        chosen = [f"{key}={value}" for key, value in {"WORKER_HTTP_PORT": str(port), **settings}.items()]
        child = Child.start(
            name,
            [*NAMESPACES, "bash", "-c", BOX, "box", *image.env, *chosen, *image.entrypoint, *image.command],
            log=folder / f"{name}.log",
            env={
                "PATH": os.environ["PATH"],
                "TREE": str(image.tree),
                "VOLUME": str(volume),
                "OWNER": image.user,
                "FOLDER": image.folder,
            },
        )
        return cls(image, volume, port, child)

    @property
    def first(self) -> int:
        """Process 1 of the container, by its number outside."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return int(children[0])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command beside the worker, as `docker exec` does."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--pid", "--root", "--wd"]
        uid, gid = self.image.user.split(":")
        settings = Path(f"/proc/{self.first}/environ").read_text().rstrip("\0").split("\0")
        drop = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs", "env", "-i", *settings]
        return subprocess.run([*inside, *drop, *command], capture_output=True, text=True, timeout=60, check=False)

    async def stop(self) -> float:
        """The image's stop signal; the seconds until every process was gone.

        Raises:
            AssertionError: the worker did not end by itself, or not with code 0.
        """
        below = descendants(self.child.pid)
        started = time.monotonic()
        os.kill(self.first, signal.Signals[self.image.stop_signal])
        code = await self.child.wait(STOP_GRACE_SECONDS)
        took = time.monotonic() - started
        left = [pid for pid in below if alive(pid)]
        assert code == 0, f"exit code {code}\n{self.child.tail()}"
        assert not left, f"processes left behind: {left}"
        return took


@contextmanager
def mounted(name: str) -> Iterator[Image]:
    """The image, its files mounted."""
    container = _buildah("from", "--pull-never", name)
    try:
        config = json.loads(_buildah("inspect", "--type", "image", name))["Docker"]["config"]
        yield Image(
            tree=Path(_buildah("mount", container)),
            user=config["User"],
            folder=config["WorkingDir"],
            env=tuple(config["Env"]),
            entrypoint=tuple(config["Entrypoint"]),
            command=tuple(config["Cmd"]),
            stop_signal=config["StopSignal"],
            health=tuple(config["Healthcheck"]["Test"][1:]),
        )
    finally:
        _buildah("umount", container)
        _buildah("rm", container)


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
