"""Network pickles: opened with a checkout laid out as the official ones, and nothing run that is not trusted."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from slider_lightning.data.style_pairs import NamedChannels, StyleGanPairs
from slider_lightning.data.style_space import StyleChannel, StyleSpace
from slider_lightning.data.stylegan_pickle import open_stylegan, own_device, pickle_imports
from slider_lightning.errors import InputError
from tests.stylegan_checkout import CHECKOUT, MAKE

LAYERS = {
    "stylegan2": {
        "synthesis.b4.conv1": 6,
        "synthesis.b4.torgb": 6,
        "synthesis.b8.conv0": 6,
        "synthesis.b8.conv1": 5,
        "synthesis.b8.torgb": 5,
    },
    "stylegan3": {"synthesis.L0_4_5": 4, "synthesis.L1_4_7": 5, "synthesis.L2_4_3": 7},
}


class Touch:
    """Pickled, it is a call that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `code/`, and pickles that another process wrote with it."""
    folder = tmp_path_factory.mktemp("nvidia")
    for name, text in CHECKOUT.items():
        path = folder / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(folder / "code"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture
def checkout(made: Path, tmp_path: Path) -> Path:
    """A copy of the checkout that a test may change."""
    return Path(shutil.copytree(made / "code", tmp_path / "code"))


@pytest.fixture(autouse=True)
def _imports_stay_as_they_were() -> Iterator[None]:
    """Neither the search path nor a module of the checkout stays behind."""
    search_path, modules = list(sys.path), set(sys.modules)
    yield
    left = {name.split(".")[0] for name in set(sys.modules) - modules}
    assert sys.path == search_path
    assert not left & {"dnnlib", "legacy", "torch_utils", "training"}


def opened(made: Path, family: str) -> StyleSpace:
    return open_stylegan(str(made / f"{family}.pkl"), str(made / "code"), trust_pickle=True)


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3"])
def test_both_families_open_as_one_style_space(made: Path, family: str) -> None:
    space = opened(made, family)
    assert space.name == family
    assert {layer.name: layer.channels for layer in space.layers} == LAYERS[family]
    assert [layer.name for layer in space.layers] == list(LAYERS[family])
    ws, affine_outputs = torch.load(made / f"{family}.pt")
    for name, style in space.styles(ws).items():
        assert torch.equal(style, affine_outputs[f"{name}.affine"])
    # Half precision, which the official blocks ask for by this attribute, is off on the CPU.
    assert {m.use_fp16 for m in space.generator.modules() if hasattr(m, "use_fp16")} == {False}


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3"])
def test_a_move_is_the_same_thing_in_both_families(made: Path, family: str) -> None:
    space = opened(made, family)
    ws = space.latents([1, 2])
    for number, layer in enumerate(space.layers):
        moved = space.channel(number, layer.channels - 1)
        edited = space.render(ws, {moved: 3.0})
        # The other way to the same image: the affine's own bias, raised.
        bias = space.generator.get_submodule(f"{layer.name}.affine").bias
        bias[moved.channel] += 3.0 * space.deviations[layer.name][moved.channel]
        torch.testing.assert_close(space.render(ws), edited, rtol=0, atol=1e-5)
        bias[moved.channel] -= 3.0 * space.deviations[layer.name][moved.channel]
        assert (edited - space.render(ws)).abs().max() > 1e-3


def test_pairs_come_from_a_pickle(made: Path, tmp_path: Path) -> None:
    pairs = StyleGanPairs(opened(made, "stylegan3"), NamedChannels({1: (4,)}), {-1: -3, 1: 3}, count=2)
    again = StyleGanPairs(opened(made, "stylegan3"), NamedChannels({"synthesis.L1_4_7": (4,)}), {-1: -3, 1: 3}, count=2)
    assert pairs.twins(tmp_path) == again.twins(tmp_path)
    assert len(list(tmp_path.glob("*/*/*.png"))) == 4


def test_two_checkouts_do_not_mix(made: Path, checkout: Path) -> None:
    first = opened(made, "stylegan3")
    (checkout / "legacy.py").write_text(
        (checkout / "legacy.py").read_text().replace("    return data", "    data['G_ema'].mark = 7\n    return data")
    )
    second = open_stylegan(str(made / "stylegan3.pkl"), str(checkout), trust_pickle=True)
    assert second.generator.mark == 7
    assert not hasattr(opened(made, "stylegan3").generator, "mark")
    ws = first.latents([3])
    assert torch.equal(first.render(ws), second.render(ws))


def test_a_module_of_the_same_name_is_put_back(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(sys)("legacy")
    monkeypatch.setitem(sys.modules, "legacy", own)
    opened(made, "stylegan2")
    assert sys.modules["legacy"] is own


def test_nothing_is_run_without_trust(checkout: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    by_pickle, by_checkout = tmp_path / "by_pickle", tmp_path / "by_checkout"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Touch(by_pickle)}))
    with (checkout / "dnnlib" / "__init__.py").open("a") as file:
        file.write(f"import pathlib\npathlib.Path({str(by_checkout)!r}).touch()\n")
    with pytest.raises(InputError) as caught:
        open_stylegan(str(path), str(checkout))
    assert not by_pickle.exists()
    assert not by_checkout.exists()
    for word in ("trust_pickle=true", "hostile.pkl", str(checkout), "dnnlib", "touch"):
        assert word in str(caught.value)
    # With trust the same files do it, and the log says so before.
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match="hold a network G_ema"):
        open_stylegan(str(path), str(checkout), trust_pickle=True)
    assert by_pickle.exists()
    assert by_checkout.exists()
    assert "Opening hostile.pkl runs" in caplog.text


def test_the_imports_of_a_pickle_are_read_without_loading_it(made: Path, tmp_path: Path) -> None:
    assert "torch_utils.persistence._reconstruct" in pickle_imports(made / "stylegan3.pkl")
    path = tmp_path / "a.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps([StyleChannel("a", 1), StyleChannel("b", 2), Touch], protocol))
        imports = set(pickle_imports(path))
        assert {"slider_lightning.data.style_space.StyleChannel", f"{__name__}.Touch"} <= imports
        assert "?" not in "".join(imports)


@pytest.mark.parametrize("missing", ["dnnlib", "legacy.py", "torch_utils"])
def test_a_folder_that_is_no_checkout_is_named(made: Path, checkout: Path, missing: str) -> None:
    gone = checkout / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InputError) as caught:
        open_stylegan(str(made / "stylegan3.pkl"), str(checkout), trust_pickle=True)
    assert f"{checkout} has no {gone.stem}" in str(caught.value)
    with pytest.raises(InputError, match="has no dnnlib, legacy, torch_utils"):
        open_stylegan(str(made / "stylegan3.pkl"), str(checkout / "nowhere"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"<!doctype html>", "is no pickle"),
        (b"", "is no pickle"),
        (pickle.dumps({"G": None}), "hold a network G_ema"),
        (pickle.dumps({"G_ema": "text"}), "hold a network G_ema"),
        (pickle.dumps([1]), "AttributeError"),
        (b"cno_such_module\nname\n.", "No module named 'no_such_module'"),
        (pickle.dumps({"G_ema": torch.nn.Linear(1, 1)}), "z_dim is missing"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_is_no_network_is_named(
    made: Path, tmp_path: Path, content: bytes | None, words: str, cut: bool
) -> None:
    path = tmp_path / "network.pkl"
    if content is not None:
        path.write_bytes(content[:-1] if cut and content else content)
        words = "is no pickle" if cut else words
    with pytest.raises(InputError) as caught:
        open_stylegan(str(path), str(made / "code"), trust_pickle=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkout_that_does_not_fit_the_pickle_is_named(made: Path, checkout: Path) -> None:
    (checkout / "torch_utils" / "persistence.py").write_text("import no_such_package\n")
    with pytest.raises(InputError, match="ModuleNotFoundError: No module named 'no_such_package'"):
        open_stylegan(str(made / "stylegan3.pkl"), str(checkout), trust_pickle=True)


def test_a_device_that_is_not_there_is_named(made: Path) -> None:
    with pytest.raises(InputError, match="device 'nonsense'"):
        open_stylegan(str(made / "stylegan3.pkl"), str(made / "code"), trust_pickle=True, device="nonsense")


@pytest.mark.parametrize(
    ("gpus", "environment", "device"),
    [
        (0, {"LOCAL_RANK": "1"}, "cpu"),
        (2, {}, "cuda"),
        (2, {"LOCAL_RANK": "0"}, "cuda:0"),
        (2, {"LOCAL_RANK": "1"}, "cuda:1"),
        (1, {"LOCAL_RANK": "3"}, "cuda:0"),
    ],
)
def test_every_process_of_a_training_has_its_own_gpu(gpus: int, environment: dict[str, str], device: str) -> None:
    assert own_device(gpus, environment) == device
