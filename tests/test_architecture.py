"""Imports point one way: pages -> service -> method packages -> models; contracts and catalog load no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHOD_PACKAGES = ("backend.path_attribution",)
CORES = ("path_attribution", "image_text", "additive_image", "additive_decoding")
# Modules of those packages that stand between the core and the engine: they read files, keep jobs, choose devices.
EDGES = ("run.py", "evaluate.py", "train.py", "data.py", "hold.py", "held.py", "own_store.py", "own_training.py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def touches(imports: set[str], *roots: str) -> set[str]:
    return {name for name in imports for root in roots if name == root or name.startswith(f"{root}.")}


PAGES = sorted((ROOT / "pages").rglob("*.py"))
BACKEND = sorted((ROOT / "backend").rglob("*.py"))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_touch_neither_torch_nor_the_core(path):
    assert not touches(imports_of(path), "torch", "torchvision", "timm", "captum", "backend.models", "backend.runtime")
    assert not touches(imports_of(path), *METHOD_PACKAGES)


@pytest.mark.parametrize("path", BACKEND, ids=lambda p: str(p.relative_to(ROOT)))
def test_backend_knows_no_pages(path):
    assert not touches(imports_of(path), "streamlit", "pages")


@pytest.mark.parametrize("path", sorted((ROOT / "backend/models").glob("*.py")), ids=lambda p: p.name)
def test_models_know_no_method(path):
    assert not touches(imports_of(path), *METHOD_PACKAGES, "backend.service", "backend.api")


@pytest.mark.parametrize(
    "path",
    [p for p in BACKEND if p.parent.name in CORES and p.name not in EDGES],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_core_chooses_no_device_and_draws_no_global_number(path):
    text = path.read_text()
    assert "cuda.is_available" not in text
    assert "torch.manual_seed" not in text or "fork_rng" in text
    assert not touches(imports_of(path), "backend.service", "backend.store", "backend.jobs")


@pytest.mark.parametrize("module", ["backend.contracts", "backend.catalog", "backend.errors", "backend.limits"])
def test_borders_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_top_level_holds_what_the_design_names():
    top = {path.name for path in ROOT.iterdir() if not path.name.startswith((".", "__"))}
    assert top == {
        "app.py", "pages", "backend", "assets", "tests", "requirements.txt", "requirements-cluster.txt", "README.md",
        "LICENSE", "ruff.toml",
    }  # fmt: skip
