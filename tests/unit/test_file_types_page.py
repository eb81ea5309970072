"""docs/file-types.md is what `make filetypes` writes, and what other libraries said is about the corpus of today."""

from __future__ import annotations

from scripts.file_types.page import ANSWERS, LIBRARIES, PAGE, digest, make_page, read_answers
from tests.unit.media_corpus import CORPUS


def test_the_libraries_were_asked_about_every_file_as_it_is() -> None:
    seen = {name: answer["sha256"] for name, answer in read_answers().items()}
    assert seen == {sample.name: digest(sample) for sample in CORPUS}, f"`make filetypes` writes {ANSWERS.name}"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == make_page(), "`make filetypes` writes it"


def test_the_page_names_the_versions_that_were_asked() -> None:
    pinned = (ANSWERS.parent / "requirements.in").read_text()
    assert f"filetype=={LIBRARIES['filetype'].split()[1]}\n" in pinned
    assert "pylibmagic==0.5.0\n" in pinned, "it brings libmagic 5.41"
