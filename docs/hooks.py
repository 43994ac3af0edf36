"""What the site does beside MkDocs: pages from the top of the tree, and links that work there and on the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files at the top of the tree that are pages of the site."""

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from the top of the tree."""
    root = Path(config.config_file_path).parent
    for name, page in TOP.items():
        files.append(File.generated(config, page, content=(root / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the tree into links within the site; one to a file that is no page becomes its text.

    A link to nothing stays as it is, and MkDocs refuses it.
    """
    root = Path(config.config_file_path).parent
    here = page.file.src_uri
    folder = "" if here in TOP.values() else posixpath.join("docs", posixpath.dirname(here))

    def renew(match: re.Match[str]) -> str:
        target = match["target"]
        if ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in TOP:
            site = TOP[path]
        elif path.startswith("docs/"):
            site = path.removeprefix("docs/")
        elif (root / path).exists():
            return match["text"]
        else:
            return match[0]
        link = posixpath.relpath(site, posixpath.dirname(here) or ".")
        return f"{match['image']}[{match['text']}]({link}{match['anchor'] or ''})"

    return LINK.sub(renew, markdown)
