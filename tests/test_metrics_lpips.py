"""LPIPS against the formula written out with torchvision's own AlexNet; its weights where they lie or are absent."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models import alexnet

from evaluation.judges.lpips import LpipsDistance, lpips_network
from evaluation.metrics.lpips import LPIPS, lpips
from slider_lightning.errors import InputError

CACHED = "alexnet-owt-7be5be79.pth"


@pytest.fixture(scope="module")
def trunk() -> torch.nn.Module:
    torch.manual_seed(3)
    return alexnet(weights=None).eval()


@pytest.fixture(scope="module")
def weights(trunk: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The convolutions alone: the classifier's 54 M weights are never read."""
    path = tmp_path_factory.mktemp("alexnet") / CACHED
    torch.save({name: value for name, value in trunk.state_dict().items() if name.startswith("features")}, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> torch.nn.Module:
    return lpips_network(str(weights))


def images(seed: int, size: int = 64, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(count, 3, 12, 12, generator=generator), size, mode="bilinear")


def lpips_written_out(trunk: torch.nn.Module, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Zhang et al. 2018, eq. 1, on images in [0, 1], with the linear heads that torchmetrics ships."""
    package = Path(importlib.util.find_spec("torchmetrics").origin).parent
    heads = torch.load(
        package / "functional/image/lpips_models/alex.pth", map_location="cpu", weights_only=True
    ).values()
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((2 * i - 1 - shift[:, None, None]) / scale[:, None, None] for i in (first, second))
    total, heads = torch.zeros(len(first)), iter(heads)
    with torch.no_grad():
        for index, layer in enumerate(trunk.features):
            x, y = layer(x), layer(y)
            if index in (1, 4, 7, 9, 11):
                head = next(heads).flatten()
                for n in range(len(first)):
                    for row in range(x.shape[2]):
                        for column in range(x.shape[3]):
                            u, v = x[n, :, row, column], y[n, :, row, column]
                            u, v = u / (u.norm() + 1e-10), v / (v.norm() + 1e-10)
                            total[n] += (head * (u - v) ** 2).sum() / (x.shape[2] * x.shape[3])
    return total


def test_lpips_is_the_formula(trunk: torch.nn.Module, network: torch.nn.Module) -> None:
    first, second = images(0), images(1)
    distances = lpips(first, second, network)
    expected = lpips_written_out(trunk, first, second)
    # torchmetrics adds 1e-8 under the root of a norm, the published code 1e-10 to the norm.
    assert torch.allclose(distances, expected, atol=1e-4)
    assert (distances > 1e-3).all(), "the random network tells the images apart"
    assert torch.equal(lpips(first, first, network), torch.zeros(3))


def test_lpips_at_64_px_is_that_of_the_resized_images(weights: Path, network: torch.nn.Module) -> None:
    first, second = images(0, 150), images(1, 150)
    small = [F.interpolate(i, (64, 64), mode="bilinear", antialias=True) for i in (first, second)]
    judge, native = LpipsDistance(str(weights)), LpipsDistance(str(weights), size=None)
    assert torch.allclose(judge(first, second), lpips(*small, network), atol=1e-6)
    assert torch.allclose(native(first, second), lpips(first, second, network), atol=1e-6)
    assert not torch.allclose(judge(first, second), native(first, second), rtol=1e-2)
    assert (judge.name, native.name) == ("LPIPS (AlexNet, 64 px)", "LPIPS (AlexNet, native size)")


def test_metric_gathers_over_batches(network: torch.nn.Module) -> None:
    first, second = images(0, count=5), images(1, count=5)
    metric = LPIPS(network, size=64)
    metric.update(first[:1], second[:1])
    metric.update(first[1:], second[1:])
    expected = lpips(first, second, network, 64)
    assert torch.allclose(metric.per_image(), expected, atol=1e-6)
    assert float(metric.compute()["lpips"]) == pytest.approx(float(expected.mean()), rel=1e-5)
    assert int(metric.compute()["n"]) == 5
    many = lpips(first.repeat(5, 1, 1, 1), second.repeat(5, 1, 1, 1), network)
    assert torch.allclose(many[-5:], expected, atol=1e-6)
    metric.reset()
    with pytest.raises(InputError, match="got none"):
        metric.per_image()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-6)])
def test_images_in_other_precisions(network: torch.nn.Module, dtype: torch.dtype, tolerance: float) -> None:
    exact = lpips(images(0), images(1), network)
    assert torch.allclose(lpips(images(0).to(dtype), images(1).to(dtype), network).float(), exact, atol=tolerance)


def test_wrong_input_is_refused(network: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="equal shape"):
        lpips(images(0), images(1, 80), network)
    with pytest.raises(ValueError, match=r"\[0, 1, 2\]"):
        lpips(images(0), images(1) * 2 - 1, network)
    broken = images(0)
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"\[1\]"):
        lpips(images(1), broken, network)
    with pytest.raises(ValueError, match=r"\(0, 3, 64, 64\)"):
        lpips(images(1)[:0], images(1)[:0], network)
    with pytest.raises(InputError, match="31 px or more"):
        lpips(images(0, 30), images(1, 30), network)
    assert lpips(images(0, 31), images(1, 31), network).isfinite().all()


def test_weights_are_found_in_torchs_cache_or_as_safetensors(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=rf"AlexNet at {tmp_path}/checkpoints/{CACHED}.*download https://") as error:
        LpipsDistance()
    assert "\n" not in str(error.value)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / CACHED).write_bytes(weights.read_bytes())
    cached = LpipsDistance()
    save_file(torch.load(weights, weights_only=True), tmp_path / "alexnet.safetensors")
    named = LpipsDistance(str(tmp_path / "alexnet.safetensors"))
    assert torch.equal(cached(images(0), images(1)), named(images(0), images(1)))
    assert not any(parameter.requires_grad for parameter in cached.parameters())
    assert not cached.train().network.training, "dropout stays off"


def test_wrong_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        LpipsDistance(str(tmp_path / "nowhere.pth"))
    (tmp_path / "half.pth").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged"):
        LpipsDistance(str(tmp_path / "half.pth"))
    (tmp_path / "half.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        LpipsDistance(str(tmp_path / "half.safetensors"))
    save_file({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another network"):
        LpipsDistance(str(tmp_path / "other.safetensors"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="something else"):
        LpipsDistance(str(tmp_path / "list.pth"))


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="damaged"):
        LpipsDistance(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "touched").exists()
