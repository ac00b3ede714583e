"""One document for several comparisons: each has its section, between markers, and rewrites no other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

_HEAD = """# Results

Every number here was written by `tools/compare_methods.py`, which also wrote down what made it: do not edit the
sections, run the command.
"""


def write_section(document: Path, name: str, title: str, text: str, pictures: Sequence[Path]) -> None:
    """Put a comparison's section into ``document``, in place of an earlier one of this name or at the end.

    Args:
        document: a Markdown file; made if there is none.
        name: of the comparison.
        title: its heading.
        text: Markdown, in which pictures are linked as :func:`picture_prefix` says.
        pictures: PNG files, copied beside the document.

    Raises:
        InputError: the document has one of the two markers alone.
    """
    begin, end = f"<!-- comparison {name}: written by tools/compare_methods.py -->", f"<!-- end of {name} -->"
    section = f"{begin}\n\n## {title}\n\n{text.strip()}\n\n{end}"
    whole = document.read_text(encoding="utf-8") if document.is_file() else _HEAD
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end) if found else ("", end in whole, "")
    if bool(found) != bool(closed):
        raise InputError(f'{document} has one of the two markers of the section "{name}" alone; put back the other.')
    if not found:
        before, after = f"{whole.rstrip()}\n\n", "\n"
    (document.parent / picture_prefix(name)).parent.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, f"{document.parent / picture_prefix(name)}{picture.name}")
    document.write_text(before + section + after, encoding="utf-8")


def picture_prefix(name: str) -> str:
    """What a comparison's pictures are called, relative to the document: this and their own name."""
    return f"figures/{name}_"
