"""A finding about a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """A problem or a warning; as text, one sentence."""

    fatal: bool  # whether it spoils training, or is a warning
    what: str
    names: tuple[str, ...] = ()  # the first ten of the files (or classes) concerned
    count: int = 0  # how many there are
    advice: str = ""  # what to do, "" where nothing has to be done

    def __str__(self) -> str:
        shown = ": " + ", ".join(self.names) if self.names else ""
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.what}{shown}{more}{'; ' if self.advice else ''}{self.advice}."
