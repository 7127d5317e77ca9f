"""Blocks of code in documents, found so that none stays untested; `tests/test_docs.py` has the rules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN, SHOWN = ("python", "bash"), ("text", "toml", "json")
_NOT_RUN = re.compile(r"<!-- not run: (\S.*?\S) -->\s*")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, the line its fence stands on, and why it is left out, if it is."""

    language: str
    line: int
    code: str
    left_out: str | None


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of a document in order.

    Raises:
        ValueError: A block that is neither run, nor shown, nor left out with a reason.
    """
    blocks, comment = [], ""
    for token in MarkdownIt().parse(text):
        line = token.map[0] + 1 if token.map else 0
        reason = _NOT_RUN.fullmatch(comment)
        if token.type == "code_block":
            raise ValueError(f"line {line}: an indented block; fence it as one of {', '.join(RUN + SHOWN)}")
        if token.type == "fence":
            if token.info not in RUN + SHOWN:
                raise ValueError(f"line {line}: a block of {token.info!r}, not of {', '.join(RUN + SHOWN)}")
            if comment and (not reason or token.info in SHOWN):
                raise ValueError(f"line {line}: a block behind {comment!r}, not <!-- not run: the reason -->")
            blocks.append(Block(token.info, line, token.content, reason[1] if reason else None))
        elif reason:
            raise ValueError(f"line {line}: {comment!r} stands in front of no block")
        comment = token.content if token.type == "html_block" else ""
    if _NOT_RUN.fullmatch(comment):
        raise ValueError(f"last line: {comment!r} stands in front of no block")
    return blocks
