"""Starts the image as a container engine would, where there is none: `sudo .venv/bin/python scripts/image_check.py`.

The image's own entrypoint and command, as its own user with no capability and no-new-privileges, as process 1 of its
own process namespace, on a read-only root with a /tmp in memory and a volume at /data. Checked, with the virtual phone
outside as WhatsApp: the QR in the log, the health check, that nothing outside the volume can be written, SIGTERM,
a second start with the same volume that needs no QR, one with a restored backup of it, and a rolling deployment: two
containers on one Supabase.

Not checked: an engine's own networks, resource limits and restart policy.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase, endpoint
from testkit.phone import Media, Sent, VirtualPhone
from testkit.processes import Child, alive, descendants, free_port
from testkit.waiting import until
from testkit.worker import Worker

IMAGE = os.environ.get("IMAGE", "localhost/wa-worker:latest")
PREVIOUS = os.environ.get(
    "PREVIOUS", IMAGE
)  # the release before: its volume is taken over, and it meets the new schema
STOP_GRACE_SECONDS = 20.0  # as in docker-compose.yml
START_SECONDS = 90.0  # an empty embedded Supabase on a busy machine
PHOTO = Path(__file__).resolve().parents[1] / "seeds" / "media"

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


async def restarted(previous: Image, image: Image, folder: Path, phone: VirtualPhone, group: str) -> None:
    """One volume, two lives, and a third from its backup."""
    volume = folder / "volume"
    volume.mkdir()
    shutil.copy(phone.media_ca, volume / "media-ca.pem")
    settings = {**phone.worker_env, "WA_MEDIA_CA": "/data/media-ca.pem"}

    first = Container.start(previous, folder, "first", volume, settings)
    try:
        await first.worker.ready(START_SECONDS)
        place = await endpoint(volume, seconds=START_SECONDS, tell=first.child.tail)
        async with await Database.connect(place.url, place.key) as database:
            qr = await database.wait_qr(START_SECONDS, tell=first.child.tail)
            await until("the QR in the log", lambda: _holds(first.child, "▀▄"), tell=first.child.tail)
            _is_confined(first)
            await phone.scan(qr)
            await database.wait_status("connected", tell=first.child.tail)
            await database.fetch_groups(tell=first.child.tail)
            await database.monitor([group])
            await database.fetch_groups(tell=first.child.tail)
            listed = first.run("wa-worker", "groups", "list")
            assert "Market" in listed.stdout, f"wa-worker groups list: {listed.stdout}{listed.stderr}"
            sent = await _photo(phone, group)
            await database.wait_media(sent.id, tell=first.child.tail)
        print("first start: the QR in the log, paired, a photo stored")
    except BaseException:
        first.child.kill()
        raise
    print(f"SIGTERM: ended by itself with code 0 in {await first.stop():.1f} s, nothing left running")

    await started_again(image, folder, phone, group, "second", volume, settings)
    print("second start on the same volume: connected without a QR, the old rows there, a new one stored")

    backup, restored = str(folder / "backup.tar"), folder / "restored"
    restored.mkdir()
    await anyio.run_process(["tar", "--create", "--file", backup, "--directory", str(volume), "."])
    await anyio.run_process(["tar", "--extract", "--same-owner", "--file", backup, "--directory", str(restored)])
    await started_again(image, folder, phone, group, "third", restored, settings)
    print("a backup of the volume, restored into a new one: the same")


async def started_again(
    image: Image, folder: Path, phone: VirtualPhone, group: str, name: str, volume: Path, settings: Mapping[str, str]
) -> None:
    """A start on a volume that has been used: connects by itself, and what was stored is there."""
    container = Container.start(image, folder, name, volume, settings)
    try:
        await container.worker.ready(START_SECONDS)
        place = await endpoint(volume, seconds=START_SECONDS, tell=container.child.tail)
        async with await Database.connect(place.url, place.key) as database:
            await phone.wait_for("connected", START_SECONDS)
            before = len(await database.messages())
            assert before > 0, "what was stored before is still there"
            sent = await phone.send("Ana", group, f"after the {name} start")
            await database.wait_message(sent.id, tell=container.child.tail)
            assert len(await database.messages()) == before + 1, "each message once"
            assert len(await database.events("qr_generated")) == 1, "no second QR"
        assert "▀▄" not in container.child.text(), "no QR in the log"
    except BaseException:
        container.child.kill()
        raise
    await container.stop()


async def rolled(previous: Image, image: Image, folder: Path, phone: VirtualPhone, cloud: EmbeddedSupabase) -> None:
    """A new release is started before the old one is stopped, both on one Supabase elsewhere and without a volume."""
    await phone.person("Ana")
    group = (await phone.group("Market", ["Ana"])).id
    volumes = [folder / "old", folder / "new"]
    for volume in volumes:
        volume.mkdir()
        shutil.copy(phone.media_ca, volume / "media-ca.pem")
    settings = {**phone.worker_env, **cloud.worker_env, "WA_MEDIA_CA": "/data/media-ca.pem", "WORKER_CATCH_UP_S": "600"}

    async with await Database.connect(cloud.url, cloud.service_key) as database:
        old = Container.start(previous, folder, "old", volumes[0], settings)
        new: Container | None = None
        try:
            await old.worker.ready(START_SECONDS)
            await phone.scan(await database.wait_qr(START_SECONDS, tell=old.child.tail))
            await database.wait_status("connected", tell=old.child.tail)
            await database.fetch_groups(tell=old.child.tail)
            await database.monitor([group])
            await database.fetch_groups(tell=old.child.tail)

            new = Container.start(image, folder, "new", volumes[1], settings)
            await new.worker.ready(START_SECONDS)
            healthy = new.run(*image.health)
            assert healthy.returncode == 0, f"the waiting one is unhealthy: {healthy.stdout}{healthy.stderr}"
            await until("the new one to say that it waits", lambda: _holds(new.child, "another worker"))
            sent = [await phone.send("Ana", group, "while both run")]
            await database.wait_message(sent[0].id, tell=old.child.tail)

            stopped = time.monotonic()
            await old.stop()
            sent.append(await phone.send("Ana", group, "while nobody was connected"))
            await phone.wait_for("connected", START_SECONDS)
            away = time.monotonic() - stopped
            sent.append(await phone.send("Ana", group, "after the change"))
            for message in sent:
                await database.wait_message(message.id, tell=new.child.tail)
            assert len(await database.messages()) == len(sent), "each message once"
            assert len(await database.events("qr_generated")) == 1, "no second QR"
            print(
                f"rolling: the new one was healthy while it waited, took over {away:.1f} s after SIGTERM; 3 of 3 stored"
            )
        except BaseException:
            for container in (old, new):
                if container is not None:
                    container.child.kill()
            raise
        await new.stop()


def _is_confined(container: Container) -> None:
    """The health check answers; user, process 1 and file tree are as promised."""
    healthy = container.run(*container.image.health)
    assert healthy.returncode == 0, f"health check: {healthy.stdout}{healthy.stderr}"
    found = container.run(
        "sh",
        "-c",
        "id -u; cat /proc/1/comm; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/1/status; "
        "for d in / /app /app/worker /usr/local /etc /var/tmp /run /tmp /data; do "
        "t=$d/.probe; (: >$t) 2>/dev/null && rm $t && echo writable $d; done; true",
    )
    lines = found.stdout.splitlines()
    uid = container.image.user.split(":")[0]
    wanted = [uid, "tini", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
    assert sorted(lines) == sorted([*wanted, "writable /tmp", "writable /data"]), f"{lines} {found.stderr}"
    print(f"health check: {healthy.stdout.strip()}; uid {uid}, process 1 is tini, no capability, writable: /tmp, /data")


async def _photo(phone: VirtualPhone, group: str) -> Sent:
    picture = next(PHOTO.glob("*.jpg"))
    return await phone.send("Ana", group, media=Media(kind="image", data=picture.read_bytes(), mime="image/jpeg"))


async def _holds(child: Child, words: str) -> bool:
    return words in child.text()


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="wa-image-"))
    place.chmod(0o711)  # the image's user passes through to its volumes
    print(f"logs and volumes, kept if something is wrong: {place}")
    anyio.run(main, place)
    shutil.rmtree(place)
