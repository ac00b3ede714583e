"""What this project's commands are called where somebody is to type them."""

from __future__ import annotations

from pathlib import Path

_SCRIPTS = {
    "train": "train_net.py",
    "predict": "demo/demo.py",
    "check": "tools/check_dataset.py",
    "report": "tools/make_report.py",
}


def command_words(name: str) -> list[str]:
    """``python train_net.py`` and the like where the current directory is a checkout; elsewhere ``rc2l-train``.

    Args:
        name: "train", "predict", "check" or "report".
    """
    return ["python", _SCRIPTS[name]] if Path(_SCRIPTS[name]).is_file() else [f"rc2l-{name}"]
