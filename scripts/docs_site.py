"""MkDocs hooks: links from docs/ into the repository, and a local copy of mermaid.

A link to a file of the repository becomes the file's name, since the site has no such page. The file must exist.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
MERMAID = ROOT / ".make" / "docs" / "mermaid.min.js"
LINK_OUT = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks.docs_site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show pages that mkdocs.yml does not list, at the end."""
    placed = re.findall(r"[\w/-]+\.md", repr(config.nav))
    more = [path.name for path in sorted(Path(config.docs_dir).glob("*.md")) if path.name not in placed]
    if more:
        config.nav = [*(config.nav or []), {"More": more}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add our copy of mermaid; otherwise the theme would download it."""
    files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/ into file names. A warning fails a strict build."""
    here = Path(page.file.abs_src_path or config.docs_dir).parent

    def named(match: re.Match[str]) -> str:
        text, target = match[1], (here / match[2]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, match[2])
        name = f"`{target.relative_to(ROOT)}`" if target.is_relative_to(ROOT) else f"`{match[2]}`"
        return text if text in (name, name.strip("`")) else f"{text} ({name})"

    return LINK_OUT.sub(named, markdown)
