"""The house: a layer imports only what stands above it in DESIGN's list."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "slider_lightning.errors",
    "slider_lightning.assets",
    "slider_lightning.config",
    "slider_lightning.entry",
    "slider_lightning.concepts",
    "slider_lightning.adapters",
    "slider_lightning.backbone",
    "slider_lightning.objectives",
    "slider_lightning.data",
    "slider_lightning.training",
    "slider_lightning.generation",
    "slider_lightning.assembly",
    "slider_lightning.runs",
    "slider_lightning.grid",
    "slider_lightning.multirun",
    "slider_lightning.train",
    "slider_lightning.cache",
    "slider_lightning.generate",
    "slider_lightning.edit",
    "slider_lightning.export",
    "slider_lightning.inspect",
    "slider_lightning.board",
    "slider_lightning.model_card",
    "slider_lightning.publish",
    "evaluation",
    "experiments",
]
SOURCES = sorted(
    path for top in ("slider_lightning", "evaluation", "experiments") for path in (ROOT / top).rglob("*.py")
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int | None:
    """Position of the layer a module of ours belongs to; None for other packages and for the bare top package."""
    for position, layer in enumerate(LAYERS):
        if module == layer or module.startswith(f"{layer}."):
            return position
    return None


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_down(path: Path) -> None:
    module = module_of(path)
    own = layer_of(module)
    if own is None:
        assert module == "slider_lightning", f"{module} belongs to no layer"
        own = -1
    below = [name for name in imported_modules(path) if (layer := layer_of(name)) is not None and layer > own]
    assert not below, f"{module} imports {below}"


def test_every_layer_exists() -> None:
    modules = {module_of(path) for path in SOURCES}
    assert set(LAYERS) <= modules


def test_the_walk_sees_a_wrong_import(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("from slider_lightning import train\nimport evaluation.scale_sweeps\n")
    layers = {layer_of(name) for name in imported_modules(path)}
    assert {LAYERS.index("slider_lightning.train"), LAYERS.index("evaluation")} <= layers
