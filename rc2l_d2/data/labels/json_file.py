"""Reading of JSON files that other programs wrote."""

from __future__ import annotations

import json
from typing import Any

from ...errors import InputError


def read_json(path: str, kind: str, advice: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file, in UTF-8 with or without a byte order mark.
        kind: what it is, for the error, as "label file".
        advice: what to do where it cannot be opened.

    Raises:
        InputError: it cannot be opened, or is not JSON.
    """
    try:
        with open(path, encoding="utf-8-sig") as text:
            return json.load(text)
    except OSError as error:
        raise InputError(f"{path}: the {kind} cannot be read ({error.strerror}); {advice}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the {kind} is not valid JSON; replace it.") from error
