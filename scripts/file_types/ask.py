"""What other libraries say of the corpus, as JSON: `make filetypes` runs this where they are installed.

They see the bytes alone, as their callers do. They are no dependency of ours: what they said is kept in
`answers.json`, with the hash of the bytes that they saw.
"""

from __future__ import annotations

import hashlib
import json
import sys

import filetype
import pylibmagic  # noqa: F401  (first: it tells `magic` where the library lies)

# isort: split
import magic

from tests.unit.media_corpus import CORPUS


def answers() -> dict[str, dict[str, str | None]]:
    return {
        sample.name: {
            "sha256": hashlib.sha256(sample.head).hexdigest(),
            "libmagic": magic.from_buffer(sample.head, mime=True),
            "filetype": filetype.guess_mime(sample.head),
        }
        for sample in CORPUS
    }


if __name__ == "__main__":
    json.dump(answers(), sys.stdout, indent=1, ensure_ascii=False)
    print()
