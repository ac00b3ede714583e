"""Reading of JSON files that other programs wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ...errors import InputError


def read_json(path: str, kind: str, advice: str, to_object: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file, in UTF-8 with or without a byte order mark.
        kind: what it is, for the error, as "label file".
        advice: what to do where it cannot be opened.
        to_object: makes an object of its pairs of keys and values; a key that is there twice has its last value.

    Raises:
        InputError: it cannot be opened, or is not JSON.
    """
    try:
        with open(path, encoding="utf-8-sig") as text:
            return json.load(text, object_pairs_hook=None if to_object is dict else to_object)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: the {kind} cannot be read ({error.strerror}); {advice}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the {kind} is not valid JSON; replace it.") from error
