"""Names of the commands for messages that say what to type."""

from __future__ import annotations

from pathlib import Path

_SCRIPTS = {
    "train": "train_net.py",
    "predict": "demo/demo.py",
    "check": "tools/check_dataset.py",
    "report": "tools/make_report.py",
}


def command_words(name: str) -> list[str]:
    """Return ``python train_net.py`` in a checkout, ``rc2l-train`` elsewhere.

    Args:
        name: "train", "predict", "check" or "report".
    """
    return ["python", _SCRIPTS[name]] if Path(_SCRIPTS[name]).is_file() else [f"rc2l-{name}"]
