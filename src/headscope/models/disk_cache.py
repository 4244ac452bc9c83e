"""What is measured once and kept between processes, as small JSON files in the user's cache.

A file that is missing, broken or of an older kind counts as absent; a cache that cannot be written is no error.
"""

import json
import os
from pathlib import Path
from typing import Any


def read(kind: str, key: str) -> Any:
    """What was written under this key; None if there is nothing to be read."""
    try:
        return json.loads(_place(kind, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(kind: str, key: str, value: Any) -> None:
    """Keep plain JSON data under this key."""
    path = _place(kind, key)
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)


def _place(kind: str, key: str) -> Path:
    base = os.environ.get("HEADSCOPE_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "headscope" / kind / f"{key}.json"
