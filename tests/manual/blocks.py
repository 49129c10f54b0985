"""The code blocks of the manual and of the READMEs, for tests to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import ROOT

DOCS = ROOT / "docs"
READMES = ROOT / "README.md", ROOT / "README.th.md"
PAGES = *READMES, *sorted(DOCS.glob("*.md"))

_FILE = re.compile(r"# ([\w-]*[./][\w./-]*)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its opening fence, counted from 1."""
    language: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is, where its first line says one."""
        named = _FILE.match(self.code)
        return named[1] if named else None


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page in their order, or those in one language."""
    found = []
    lines = iter(enumerate(page.read_text("utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := re.fullmatch(r"(`{3,}|~{3,})(.*)", line):
            code = []
            for _, inner in lines:
                if inner == fence[1]:
                    break
                code.append(inner)
            else:
                raise AssertionError(f"{page.name}:{number}: the block does not end")
            found.append(Block(page, number, fence[2].strip(), "\n".join([*code, ""])))
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that are in no block, with their numbers."""
    inside = {
        number
        for block in blocks(page)
        for number in range(block.line, block.line + block.code.count("\n") + 2)
    }
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if number not in inside:
            yield number, line


def run(block: Block, program: dict[str, Any]) -> None:
    """Run a Python block as the next part of a program."""
    source = "\n" * block.line + block.code  # so that a traceback names the page's own lines
    exec(compile(source, str(block.page), "exec", dont_inherit=True), program)


def program(page: Path) -> dict[str, Any]:
    """Run all Python blocks of a page in their order, as one program, and return its names."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        run(block, names)
    return names


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the blocks of a page that are files, and return their names."""
    named = [(block.file, block.code) for block in blocks(page) if block.file]
    for name, code in named:
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, "utf-8")
    return [name for name, _ in named]
