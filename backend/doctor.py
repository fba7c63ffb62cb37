"""Is this installation sound, and if not, what mends it? `python -m backend doctor [--json]`.

Every check gives one finding: "ok", "note" (works, but a person should know), or "fix" (something must be mended, and
`todo` says how). No check changes anything.
"""

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from backend.entrance import Entrance
from backend.errors import BadInput, PrismError
from backend.files import home as home_folder
from backend.limits import MIB

ROOT = Path(__file__).resolve().parent.parent
GIB = 1024 * MIB
DEFAULT_PORT = 8501
_PYTHON = (3, 11)
_LEAST_MEMORY, _LEAST_DISK = 3 * GIB, 1 * GIB
_INSTALL = "run: pip install -r requirements.txt"

Level = Literal["ok", "note", "fix"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    said: str  # one sentence
    todo: str = ""  # what mends it


def examine(port: int = DEFAULT_PORT) -> Iterator[Finding]:
    """All findings, in order; a check that falls over is itself a finding."""
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("python", check_python),
        ("libraries", check_libraries),
        ("device", check_device),
        ("memory", check_memory),
        ("disk", check_disk),
        ("weights", check_weights),
        ("models file", check_models_file),
        ("settings", check_settings),
        ("cluster", check_cluster),
        ("hub", check_hub),
        ("port", lambda: check_port(port)),
        ("browser", check_browser),
    )
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # a doctor that falls over helps nobody
            yield Finding(name, "fix", f"this check itself failed: {type(error).__name__}: {error}", _INSTALL)


def check_python() -> Iterator[Finding]:
    said = f"Python {sys.version.split()[0]}"
    if sys.version_info < _PYTHON:
        yield Finding("python", "fix", said, f"install Python {_PYTHON[0]}.{_PYTHON[1]} or newer")
    else:
        yield Finding("python", "ok", said)


def check_libraries(path: Path = ROOT / "requirements.txt") -> Iterator[Finding]:
    """Every line of the requirements against what is installed."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    needed = [Requirement(line) for line in lines if line]
    problems = [problem for problem in map(_library_problem, needed) if problem]
    if problems:
        yield Finding("libraries", "fix", "; ".join(problems), _INSTALL)
    else:
        yield Finding("libraries", "ok", f"all {len(needed)} libraries are there in the versions that are needed")


def _library_problem(needed: Requirement) -> str:
    try:
        installed = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is missing"
    if not needed.specifier.contains(installed, prereleases=True):
        return f"{needed.name} is {installed}, needed is {needed.specifier}"
    return ""


def check_device() -> Iterator[Finding]:
    """Does the device that would be used compute, and is a GPU left unused?"""
    import torch

    from backend.runtime import choose_device

    try:
        device = choose_device()
        torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device)).sum().item()
    except (RuntimeError, AssertionError) as error:
        said = f"the device does not compute: {str(error).splitlines()[0]}"
        yield Finding("device", "fix", said, "set PRISM_DEVICE=cpu, or mend the driver or PyTorch's build")
        return
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        yield Finding("device", "ok", f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GB free")
    elif device.type == "cpu" and shutil.which("nvidia-smi") and not os.environ.get("PRISM_DEVICE"):
        said = "there seems to be an NVIDIA GPU, but this build of PyTorch does not see it"
        yield Finding("device", "note", said, "install the CUDA build of PyTorch for this driver (pytorch.org)")
    else:
        threads = torch.get_num_threads()
        yield Finding("device", "ok", f"{device.type.upper()}, {threads} thread{'s' * (threads != 1)}")


def check_memory() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        yield Finding("memory", "note", "this system does not tell how much memory it has")
        return
    said = f"{total / GIB:.1f} GB of memory"
    if total < _LEAST_MEMORY:
        yield Finding("memory", "fix", said, f"{_LEAST_MEMORY / GIB:.0f} GB are needed with the embedded models")
    else:
        yield Finding("memory", "ok", said)


def check_disk() -> Iterator[Finding]:
    """Is there room where jobs keep their state, and may they write there?"""
    home = home_folder()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("disk", "fix", f"{home} cannot be written", "set PRISM_HOME to a folder that can")
        return
    free = shutil.disk_usage(there).free
    said = f"{free / GIB:.1f} GB free at {home}"
    if free < _LEAST_DISK:
        yield Finding("disk", "fix", said, f"free {_LEAST_DISK / GIB:.0f} GB, or set PRISM_HOME to another disk")
    else:
        yield Finding("disk", "ok", said)


def check_weights(folder: Path = ROOT / "assets" / "weights") -> Iterator[Finding]:
    """Is every weights file that ships the one that its card describes?"""
    cards = [card for card in sorted(folder.glob("*.json")) if _is_card(card)]
    bad = [
        card.stem
        for card in cards
        if _digest(card.with_suffix(".safetensors")) != json.loads(card.read_text())["sha256"]
    ]
    if not cards:
        yield Finding("weights", "fix", f"there are no weights in {folder}", "get the repository again, whole")
    elif bad:
        said = f"missing, damaged or changed: {', '.join(bad)}"
        yield Finding("weights", "fix", said, "get these files again, or run: python -m backend train NAME")
    else:
        yield Finding("weights", "ok", f"all {len(cards)} weights files are the ones that their cards describe")


def _is_card(path: Path) -> bool:
    return "sha256" in json.loads(path.read_text())


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_models_file() -> Iterator[Finding]:
    path = os.environ.get("PRISM_MODELS")
    if not path:
        yield Finding("models file", "ok", "no models of your own are named (PRISM_MODELS)")
        return
    from backend.models.user_models import read_models_file

    specs, problems = read_models_file(path)
    for problem in problems:
        yield Finding("models file", "fix", problem, f"mend {path}")
    if not problems:
        yield Finding("models file", "ok", f"{len(specs)} models of your own in {path}")


def check_settings() -> Iterator[Finding]:
    """Who may come in. (Limits that are set wrongly end every process at its start, this one too.)"""
    try:
        entrance = Entrance.from_environment()
    except BadInput as error:
        yield Finding("settings", "fix", error.sentence, f"mend {error.field}")
        return
    if entrance.is_open:
        said = "everybody who reaches the port may come in"
        yield Finding("settings", "note", said, "set PRISM_PASSWORD before others can reach it")
    else:
        ways = [
            *(["a password"] if entrance.password else []),
            *([f"the header {entrance.header}"] if entrance.header else []),
        ]
        yield Finding("settings", "ok", f"people come in by {' or '.join(ways)}")


def check_cluster() -> Iterator[Finding]:
    """If a Ray cluster is to answer: is Ray here, and do its replicas answer?"""
    address = os.environ.get("PRISM_CLUSTER")
    if not address:
        yield Finding("cluster", "ok", "no Ray cluster is named (PRISM_CLUSTER): this process computes itself")
        return
    from backend.cluster import environment
    from backend.cluster.connection import ClusterConnection

    if not environment.is_installed():
        yield Finding("cluster", "fix", "PRISM_CLUSTER is set, but Ray is not installed", f"run: {environment.INSTALL}")
        return
    try:
        connection = ClusterConnection(address)
        status = connection.call("/status", is_patient=False)
        connection.close()
    except PrismError as error:
        todo = "run `python -m backend serve` there, with the same token (PRISM_HOME/cluster/token) on both sides"
        yield Finding("cluster", "fix", f"{address}: {error.sentence}", todo)
    else:
        yield Finding("cluster", "ok", f"Ray {version('ray')}; {status['device']} at {address}")


def check_hub() -> Iterator[Finding]:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    from backend.models import hub

    if HF_HUB_OFFLINE:
        yield Finding("hub", "note", "HF_HUB_OFFLINE is set: models of the hub come from the local cache only")
        return
    if hub.answers():
        yield Finding("hub", "ok", f"{ENDPOINT} answers")
    else:
        said = f"{ENDPOINT} does not answer: models of the hub come from the local cache only; what ships works"
        yield Finding("hub", "note", said)


def check_port(port: int) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            todo = "end what listens there, or start with --server.port NUMBER"
            yield Finding("port", "fix", f"port {port} is taken", todo)
        else:
            yield Finding("port", "ok", f"port {port} is free")


def check_browser() -> Iterator[Finding]:
    """Only the tests need one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        yield Finding("browser", "ok", f"{found} for the browser tests")
    else:
        yield Finding("browser", "note", "no Chromium on the PATH; only the browser tests need one")
