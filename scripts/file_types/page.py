"""docs/file-types.md: the corpus, what each of its files becomes, and what other libraries say of it.

`make filetypes` asks the libraries anew (`ask.py`) and writes the page.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.unit.media_corpus import CORPUS, DOCUMENTS, FILMS, PICTURES, SOUND, Sample
from worker.media import file_types
from worker.media.sniff import Sniffed, sniff

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parents[1] / "docs" / "file-types.md"
ANSWERS = FOLDER / "answers.json"
LIBRARIES = {"libmagic": "libmagic 5.41", "filetype": "filetype 1.2.0"}
NOTHING = (None, file_types.OTHER)

# Other spellings of our types, and finer ones. A web page is one to them; that we store it as text is our decision.
SAME = {
    **dict.fromkeys(("image/heif", "image/heic-sequence", "image/heif-sequence"), "image/heic"),
    "image/jpx": "image/jp2",
    "video/3gpp2": "video/3gpp",
    "audio/x-wav": "audio/wav",
    "audio/x-aiff": "audio/aiff",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "audio/x-hx-aac-adts": "audio/aac",
    "application/CDFV2": "application/x-ole-storage",
    "application/x-rar": "application/vnd.rar",
    "application/x-rar-compressed": "application/vnd.rar",
    "text/rtf": "application/rtf",
    "text/html": "text/plain",
}
HEADER = """# File types

*For whoever asks whether a kind of file is stored, and under which type. At the end you have found yours. Look things
up here.*

`make filetypes` makes this page from `tests/unit/media_corpus.py`: the first bytes of {files} files, at least one for
every stored type and brand. Tests compare the page with the rules, and send every file through the worker. How the
rules decide: [what a message becomes](kinds.md#how-a-files-type-is-told).

- **Message says**: the sender's type, and the message's kind if it is not a document. It decides only where the bytes
  name a family.
- **Stored as**: the type and the extension that the worker stores.
- **Limit**: `media` is `WORKER_MAX_MEDIA_MB`; `document` is the lower of that and `WORKER_MAX_DOCUMENT_MB`.
- **Libraries** see only the bytes. ✓ is the same type, perhaps spelled differently; any other answer is wrong or less
  exact. Where the sender's type decides, no library can know.

| | wrong or no answer, of {files} |
|---|---|
{summary}
"""


def ours(sample: Sample) -> Sniffed:
    return sniff(sample.head, sample.hint, sample.media_type)


def is_right(answer: str | None, sample: Sample) -> bool:
    return answer is not None and SAME.get(answer, answer) == sample.mime


def limit(mime: str) -> str:
    return "document" if mime in file_types.DOCUMENTS else "media"


def short(mime: str) -> str:
    """A type as a cell: an office type is two lines long otherwise."""
    known = file_types.EXTENSIONS.get(mime)
    return f"`{known}`" if known and len(mime) > 40 else f"`{mime}`"


def said(answer: str | None, sample: Sample) -> str:
    if answer in NOTHING:
        return "nothing"
    return "✓" if is_right(answer, sample) else short(str(answer))


def row(sample: Sample, answers: dict[str, str | None]) -> str:
    claim = [short(sample.hint)] if sample.hint else []
    claim += [f"{sample.media_type} message"] if sample.media_type != "document" else []
    stored = ours(sample)
    cells = [
        sample.name, ", ".join(claim) or "nothing", short(stored.mime), f"`.{stored.extension}`", limit(stored.mime),
        *(said(answers[library], sample) for library in LIBRARIES),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def digest(sample: Sample) -> str:
    return hashlib.sha256(sample.head).hexdigest()


def read_answers() -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = json.loads(ANSWERS.read_text())
    return found


def make_page() -> str:
    answers = read_answers()
    wrong = {"our rules": sum(ours(sample).mime != sample.mime for sample in CORPUS)} | {
        name: sum(not is_right(answers[sample.name][library], sample) for sample in CORPUS)
        for library, name in LIBRARIES.items()
    }
    summary = "\n".join(f"| {name} | {count} |" for name, count in wrong.items())
    parts = [HEADER.format(files=len(CORPUS), summary=summary)]
    for title, samples in (("Pictures", PICTURES), ("Videos", FILMS), ("Audio", SOUND), ("Documents", DOCUMENTS)):
        head = ["file", "message says", "stored as", "", "limit", *LIBRARIES]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [row(sample, answers[sample.name]) for sample in samples]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(make_page())
