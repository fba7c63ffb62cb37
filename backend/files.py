"""Where Prism keeps what outlives it, files of settings, and files that are whole or not there.

Of these a reader, or a kill in the middle of writing, never meets half of one.
"""

import contextlib
import os
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.errors import BadInput

_DRAFT = ".part"


def home() -> Path:
    """The folder of jobs and kept data: `PRISM_HOME`, by default under the user's cache."""
    named = os.environ.get("PRISM_HOME")
    return Path(named) if named else Path.home() / ".cache" / "prism"


def data_folder() -> Path:
    """Where kept data lie, beside the jobs."""
    return home() / "data"


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Write to the path that this yields: it takes the place of `path` at the end, or goes if the writer raises.

    The draft bears its writer's process and thread, so that two writers never share one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{_DRAFT}")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    with draft_of(path) as draft:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode())


def remove_drafts(folder: Path) -> None:
    """Delete, at every depth, the drafts of processes that are gone."""
    for draft in folder.rglob(f".*{_DRAFT}"):
        *_, pid, _thread, _suffix = draft.name.split(".")
        if pid.isdecimal() and not _is_running(int(pid)):
            draft.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    """Is there a process of this number? Where that cannot be asked without harm (Windows), yes."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def read_toml(path: str, field: str, named: str = "") -> dict[str, Any]:
    """A file of settings.

    Args: field: what a refusal stands beside. named: who names the file, for a refusal.
    Raises: BadInput: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"cannot read {path}{named}", field) from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}", field) from None
