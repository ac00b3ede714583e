"""A finding about a data set."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

_SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class Remark:
    """A problem or a warning; as text, one sentence with the first five names."""

    fatal: bool  # whether it spoils training, or is a warning
    what: str
    names: tuple[str, ...] = ()  # the first ten of the files (or classes) concerned
    count: int = 0  # how many there are
    advice: str = ""  # what to do, "" where nothing has to be done
    details: tuple[str, ...] = ()  # what is wrong with each of ``names``, "" for nothing more; or no details

    def __str__(self) -> str:
        pairs = [*zip(self.names, self.details or [""] * len(self.names), strict=True)][:_SHOWN]
        # A detail of several files in a row is said once.
        rows = [(detail, [name for name, _ in row]) for detail, row in groupby(pairs, lambda pair: pair[1])]
        texts = [
            ", ".join(names) + (f" ({'each: ' * (len(names) > 1)}{detail})" if detail else "") for detail, names in rows
        ]
        shown = ": " + ", ".join(texts) if texts else ""
        more = ", ..." if self.count > len(pairs) else ""
        return f"{self.what}{shown}{more}{'; ' if self.advice else ''}{self.advice}."
