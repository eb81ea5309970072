"""What is checked of the image, with the virtual phone outside as WhatsApp and up to two containers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import anyio

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase, endpoint
from testkit.phone import Media, Sent, VirtualPhone
from testkit.processes import Child
from testkit.waiting import until
from tests.image.box import Container, Image

START_SECONDS = 90.0  # an empty embedded Supabase on a busy machine
PHOTO = Path(__file__).resolve().parents[2] / "seeds" / "media"


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
