"""What the pages of docs/ promise: a cited section exists, a link leads somewhere, the test vector is right."""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WHATSAPP = (DOCS / "whatsapp.md").read_text()
CODE_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTVWXYZ"

# `docs/whatsapp.md, "Closes"`, also with further sections behind it, and across the lines of a comment.
BREAK = r"\s*(?:\n\s*(?:\*|#|//|--)?\s*)?"
QUOTED = r'"[A-Za-z][^"\n]{2,60}"'
BY_NAME = re.compile(rf"docs/([\w-]+\.md),{BREAK}({QUOTED}(?:,?{BREAK}(?:and|or)?{BREAK}{QUOTED})*)")
BY_NUMBER = re.compile(r"docs/contract\.md §(\d+)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
# Papers that are not in this repository, and numbers that mean nothing outside of its tracker.
ELSEWHERE = re.compile(r"\b(?:F[A]CTS|D[E]SIGN|B[P]-WORKER|(?:P[A]SSKEY|C[A]SES|S[T]YLE)\.md)\b|\b[Ii]ssue [0-9]+\b")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content[:8000]:
                yield name, content.decode(errors="replace")


def headings(page: Path) -> list[str]:
    """The headings of a page, without those of its code blocks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return HEADING.findall(prose)


# A page in the manner of `mkdocs`' front page, and two that programs write.
WITHOUT_A_READER = {"index.md", "licenses.md", "mutants.md"}


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md") if p.name not in WITHOUT_A_READER))
def test_a_page_says_for_whom_it_is_and_what_they_have_at_its_end_and_how_long_it_takes(page: str) -> None:
    """Its first paragraph: `*For …. At the end …. Ten minutes.*`"""
    first = " ".join((DOCS / page).read_text().split("\n\n")[1].split())
    assert re.fullmatch(r"\*For .+\. At the end .+\. .*(minutes|[Hh]our|Look things up here).*\.\*", first), first


def anchor(heading: str) -> str:
    """The anchor that mkdocs and GitHub give a heading."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"\s+", "-", plain)


def faulty_citations(text: str) -> list[str]:
    faults = []
    for page, sections in BY_NAME.findall(text):
        known = headings(DOCS / page) if (DOCS / page).exists() else []
        faults += [f'{page}, "{name}"' for name in re.findall(r'"([^"]+)"', sections) if name not in known]
    known = [heading.split(")")[0] for heading in headings(DOCS / "contract.md")]
    return faults + [f"contract.md §{number}" for number in BY_NUMBER.findall(text) if number not in known]


def test_every_section_that_is_cited_exists() -> None:
    faults = [f"{name}: {fault}" for name, text in tracked_texts() for fault in faulty_citations(text)]
    assert faults == []


@pytest.mark.parametrize(
    ("citation", "faults"),
    [
        ('@whatsapp.md, "Closes"', []),
        ('@whatsapp.md, "Closes" and "Options"', []),
        ('@whatsapp.md,\n * "The server\'s side"', []),
        ("@contract.md §13", []),
        ('@whatsapp.md, "Doors"', ['whatsapp.md, "Doors"']),
        ('@whatsapp.md, "Closes" and "Doors"', ['whatsapp.md, "Doors"']),
        ('@doors.md,\n    # "Closes"', ['doors.md, "Closes"']),
        ("@contract.md §15", ["contract.md §15"]),
    ],
)
def test_a_citation_is_read_as_it_is_written(citation: str, faults: list[str]) -> None:
    """`@` is the folder: written out, these would be citations themselves."""
    assert faulty_citations(citation.replace("@", "docs/")) == faults


def test_nothing_cites_what_is_not_in_the_repository() -> None:
    texts = list(tracked_texts())
    assert texts
    assert [f"{name}: {found[0]}" for name, text in texts for found in ELSEWHERE.finditer(text)] == []


def test_every_link_to_a_heading_leads_to_one() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "simulator/README.md")]
    pages += sorted(DOCS.glob("*.md"))
    faults = []
    for page in pages:
        for target, fragment in LINK.findall(page.read_text()):
            aim = (page.parent / target).resolve() if target else page
            if not aim.exists() or fragment not in [anchor(heading) for heading in headings(aim)]:
                faults.append(f"{page.name}: {target}#{fragment}")
    assert faults == []


@pytest.mark.parametrize("folder", ["worker", "console", "sidecar-baileys/lib"])
def test_the_tree_of_folders_names_every_module(folder: str) -> None:
    """`commands/` is left out there: one module a command."""
    tree = (DOCS / "architecture.md").read_text().partition("## Folders")[2].split("```")[1]
    modules = [
        path
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".js"} and not path.name.startswith("__") and path.parent.name != "commands"
    ]
    missing = [str(path.relative_to(ROOT)) for path in modules if not re.search(rf"\b{path.stem}\b", tree)]
    assert modules
    assert missing == []


NAMED_TEST = re.compile(r'`((?:tests|sidecar-baileys|simulator)/[\w./-]+)`: "([^"]+)"')
# In the virtual phone's table a file of its own tests is its name; `sidecar:` leads to the sidecar's.
PHONE_TEST = {
    "sidecar": "sidecar-baileys/test/{}.test.js",
    "": "simulator/test/{}.test.js",
}


def titles(path: Path) -> list[str]:
    """The titles of a file's tests, in Python and in JavaScript, as words without marks."""
    text = path.read_text()
    found = re.findall(r"^\s*(?:async )?def test_(\w+)", text, re.MULTILINE)
    found += [title for _, title in re.findall(r"\btest\((['\"`])(.*?)\1,", text)]
    return [words(title) for title in found]


def words(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", title.replace("\\'", "'").lower()).strip()


def test_every_test_that_the_table_of_behaviours_names_exists() -> None:
    table = WHATSAPP.partition("### Behaviour by behaviour")[2].partition("## The passkey gate")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ") and not row.startswith("| behaviour")]
    missing = []
    for row in rows:
        named = NAMED_TEST.findall(row)
        assert named, f"a row without a test: {row}"
        missing += [
            f"{file}: {title}"
            for file, title in named
            if not any(known.startswith(words(title)) for known in titles(ROOT / file))
        ]
    assert len(rows) > 20
    assert missing == []


def test_every_test_that_the_virtual_phone_s_table_names_exists() -> None:
    table = (ROOT / "simulator/README.md").read_text().partition("| behaviour | source, certainty")[2]
    cells = [row.split(" | ")[-1].rstrip(" |") for row in table.partition("\n\n")[0].splitlines()[2:]]
    missing = []
    for cell in (part for whole in cells for part in whole.split("; ")):
        place, _, title = cell.partition(": ")
        if place == "worker":  # a whole file
            missing += [] if (ROOT / title.strip("`")).exists() else [cell]
            continue
        name, _, rest = title.partition(", ") if place == "sidecar" else (place, "", title)
        file = ROOT / PHONE_TEST["sidecar" if place == "sidecar" else ""].format(name)
        if not file.exists() or not any(words(rest) in known for known in titles(file)):
            missing.append(cell)
    assert len(cells) > 20
    assert missing == []


# ── the passkey gate ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_passkey_s_test_vector_follows_from_the_rules_beside_it() -> None:
    table = WHATSAPP.partition("### A test vector")[2].partition("\n### ")[0]
    text = dict(re.findall(r"^\| ([\w ]+) \| `([^`]+)` \|$", table, re.MULTILINE))
    value = {name: bytes.fromhex(found) for name, found in text.items() if re.fullmatch(r"([0-9a-f]{2})+", found)}
    companion = X25519PrivateKey.from_private_bytes(value["companion private"])
    primary = X25519PrivateKey.from_private_bytes(value["primary private"])
    assert raw(companion.public_key()) == value["companion public"]
    assert raw(primary.public_key()) == value["primary public"]

    identity = field(1, value["companion public"]) + b"\x10" + bytes([int(text["deviceType"])])
    identity += field(3, text["ref"].encode())
    assert identity == value["identity"]
    assert hashlib.sha256(identity + value["companion nonce"]).digest() == value["commitment"]
    payload = field(1, identity) + field(2, field(1, value["commitment"]))
    assert payload == value["prologue payload"]

    handoff = derive(value["old adv secret"], salt=None, info=b"shortcake-passkey-handoff-v1")
    assert handoff == value["handoff key"]
    assert hmac.digest(handoff, payload, "sha256") == value["handoff proof"]

    shared = companion.exchange(primary.public_key())
    assert shared == value["Z"]
    sentence = f"Companion Pairing {text['deviceType']} with ref {text['ref']}".encode()
    key = derive(shared, salt=sentence, info=b"Pairing Information Encryption Key")
    assert key == value["K"]

    digest = hashlib.sha256(value["companion nonce"] + value["primary public"]).digest()
    bits = int.from_bytes(bytes(a ^ b for a, b in zip(value["primary nonce"][:5], digest[:5], strict=True)))
    code = "".join(CODE_ALPHABET[(bits >> shift) & 31] for shift in range(35, -1, -5))
    assert f"{code[:4]}-{code[4:]}" == text["code"]

    request = field(1, value["noise public"]) + field(2, value["identity public"]) + field(3, value["new adv secret"])
    sealed = AESGCM(key).encrypt(value["iv"], request, None)
    assert (len(request), len(sealed)) == (102, 118)
    assert field(1, sealed) + field(2, value["iv"]) == value["encrypted pairing request"]
    ephemeral = field(1, value["primary public"]) + field(2, value["primary nonce"])
    assert ephemeral == value["primary ephemeral identity"]


def raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes, shorter than 128."""
    return bytes([number << 3 | 2, len(content)]) + content


def derive(secret: bytes, *, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


TABLE_OF_TESTS = re.compile(r"^\|(?:[^|\n]*\|)+\s*$", re.MULTILINE)
TEST_IN_ROW = re.compile(r"`([\w.]+\.(?:test\.js|py))(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["docs/durability.md", "SECURITY.md"])
def test_every_test_that_a_table_names_exists(page: str) -> None:
    rows = [row for row in TABLE_OF_TESTS.findall((ROOT / page).read_text()) if TEST_IN_ROW.search(row)]
    assert len(rows) > 15
    places = {path.name: path for folder in ("tests", "sidecar-baileys/test") for path in (ROOT / folder).rglob("*")}
    for row in rows:
        for file, name in TEST_IN_ROW.findall(row.split("|")[-2]):
            assert file in places, row
            assert not name or re.search(rf"def {name}\b", places[file].read_text()), f"{file}::{name}"
