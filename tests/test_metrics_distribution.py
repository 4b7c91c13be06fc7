"""FID and KID against scipy, closed forms, numpy and torchmetrics; their intervals; and the features they read."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from evaluation.judges.clip import load_clip
from evaluation.judges.features import ClipFeatures, InceptionFeatures
from evaluation.metrics.distribution import distance_change, distance_measure, frechet_distance, kernel_distance
from experiments.tiny_faces.faces import sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.config import ROOT
from slider_lightning.errors import InputError


def features(seed: int, count: int, dim: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated Gaussian features."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.double) / math.sqrt(dim)
    return torch.randn(count, dim, generator=generator, dtype=torch.double) @ mixing + shift


@pytest.fixture(scope="module")
def judge() -> ClipFeatures:
    return ClipFeatures(load_clip(ROOT / "assets/tiny_faces/clip", "tiny_faces CLIP"))


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return render(sample_faces(64, seed=4), 64).images


@pytest.mark.parametrize(("n", "m", "dim"), [(200, 300, 16), (80, 200, 40), (41, 41, 40)])
def test_frechet_distance_is_the_one_of_a_matrix_root(n: int, m: int, dim: int) -> None:
    first, second = features(0, n, dim), features(1, m, dim, 0.3)
    a, b = first.numpy(), second.numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert float(frechet_distance(first, second)) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_below_as_many_images_as_dimensions() -> None:
    """Singular covariances, whose root is taken in the few dimensions that the images span."""
    first, second = features(0, 12, 40), features(1, 9, 40, 0.3)
    basis = torch.linalg.qr(torch.cat([first, second]).T).Q
    embedded = [x @ basis for x in (first, second)]
    s1, s2 = (torch.cov(x.T) for x in embedded)
    values, vectors = torch.linalg.eigh(s1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ s2 @ root).clamp_min(0).sqrt().sum()
    gap = (embedded[0].mean(0) - embedded[1].mean(0)).square().sum()
    expected = gap + s1.trace() + s2.trace() - 2 * shared
    assert float(frechet_distance(first, second)) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    """Diagonal covariances: |mu_1 - mu_2|^2 + sum of (sigma_1 - sigma_2)^2."""
    grid = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.double)
    unit = grid * math.sqrt(3 / 4)  # unbiased covariance: the identity
    wide = unit * torch.tensor([2.0, 5.0]) + torch.tensor([3.0, -4.0])
    assert float(frechet_distance(unit, wide)) == pytest.approx(25 + 1 + 16, rel=1e-10)
    assert float(frechet_distance(unit, unit)) == pytest.approx(0, abs=1e-12)
    assert float(frechet_distance(wide, unit)) == pytest.approx(42, rel=1e-10)


def test_kernel_distance_is_the_sum_over_all_pairs() -> None:
    first, second = features(0, 30, 8).numpy(), features(1, 20, 8, 0.4).numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 8 + 1) ** 3)

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])
        for rows in (first, second)
    ]
    between = np.mean([kernel(x, y) for x in first for y in second])
    expected = within[0] + within[1] - 2 * between
    measured = float(kernel_distance(torch.from_numpy(first), torch.from_numpy(second)))
    assert measured == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance")
def test_torchmetrics_agrees_when_it_reads_images_through_our_judge(judge: ClipFeatures, faces: torch.Tensor) -> None:
    first, second = faces[:32], faces[32:]
    fid = FrechetInceptionDistance(feature=judge, normalize=True)
    kid = KernelInceptionDistance(feature=judge, normalize=True, subsets=1, subset_size=32)
    for metric in (fid, kid):
        for rows, real in ((first[:10], True), (first[10:], True), (second, False)):
            metric.update(rows, real=real)
    ours = judge(first), judge(second)
    assert judge.num_features == ours[0].shape[1] == 128
    assert judge.name == "tiny_faces CLIP features"
    # 32 images in 128 dimensions: torchmetrics takes the root of a singular matrix.
    assert float(fid.compute()) == pytest.approx(float(frechet_distance(*ours)), rel=1e-3)
    assert float(kid.compute()[0]) == pytest.approx(float(kernel_distance(*ours)), rel=1e-3, abs=1e-2)


def test_drawn_faces_are_nearer_to_others_than_to_blurred_ones(judge: ClipFeatures, faces: torch.Tensor) -> None:
    blurred = torch.nn.functional.avg_pool2d(faces[:32], 9, stride=1, padding=4)
    for distance in (frechet_distance, kernel_distance):
        assert distance(judge(faces[:32]), judge(faces[32:])) < distance(judge(blurred), judge(faces[32:]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_in_other_precisions(dtype: torch.dtype) -> None:
    first, second = features(0, 60, 6), features(1, 60, 6, 0.5)
    for distance in (frechet_distance, kernel_distance):
        result = distance(first.to(dtype), second.to(dtype))
        assert result.dtype == torch.double
        assert float(result) == pytest.approx(float(distance(first, second)), rel=0.05)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_interval_holds_the_estimate_and_narrows(distance) -> None:
    few = distance_measure(distance, features(0, 40, 4), features(1, 40, 4, 0.5), 100)
    many = distance_measure(distance, features(0, 640, 4), features(1, 640, 4, 0.5), 100)
    for measure, n in ((few, 40), (many, 640)):
        assert measure.n == n
        assert measure.ci95[0] < measure.mean < measure.ci95[1]
    width = few.ci95[1] - few.ci95[0], many.ci95[1] - many.ci95[0]
    assert width[1] < width[0] / 2
    assert distance_measure(distance, features(0, 40, 4), features(1, 40, 4, 0.5), 100) == few, "no global dice"


def test_interval_covers_the_expected_estimate() -> None:
    """The shares of 60 experiments whose interval holds the mean estimate over all of them."""
    pairs = [(features(0, 60 * 50, 3)[i::60], features(1, 60 * 50, 3, 0.5)[i::60]) for i in range(60)]
    measures = [distance_measure(frechet_distance, *pair, resamples=100) for pair in pairs]
    expected = np.mean([measure.mean for measure in measures])
    assert np.mean([low <= expected <= high for low, high in (m.ci95 for m in measures)]) >= 0.85


def test_change_is_paired() -> None:
    """An edit that moves every image by the same step: the two distances are unsure, their difference is not."""
    reference, original = features(1, 100, 4), features(0, 100, 4, 1.0)
    edited = original - 0.2
    change = distance_change(frechet_distance, edited, original, reference, 100)
    exact = float(frechet_distance(edited, reference) - frechet_distance(original, reference))
    assert change.mean == pytest.approx(exact, rel=1e-9)
    alone = distance_measure(frechet_distance, original, reference, 100)
    assert change.ci95[1] - change.ci95[0] < (alone.ci95[1] - alone.ci95[0]) / 2
    assert change.ci95[1] < 0
    with pytest.raises(ValueError, match="paired"):
        distance_change(frechet_distance, edited[:5], original, reference)


def test_wrong_features_are_refused() -> None:
    good = features(0, 10, 4)
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(InputError, match=r"at least 2 images.*got 1"):
            distance(good, good[:1])
        with pytest.raises(ValueError, match=r"\(10, 3\)"):
            distance(good, good[:, :3])
        broken = good.clone()
        broken[6, 1] = float("nan")
        with pytest.raises(ValueError, match=r"\[6\]"):
            distance(broken, good)
    with pytest.raises(InputError, match="at least 2"):
        distance_measure(frechet_distance, good[:1], good)


def test_inception_without_its_package_or_weights_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "torch_fidelity", None)
        with pytest.raises(InputError, match="pip install torch-fidelity"):
            InceptionFeatures()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match=rf"Inception v3 at {tmp_path}/checkpoints/.*no such file.*download https://"):
        InceptionFeatures()
    with pytest.raises(InputError, match="nowhere"):
        InceptionFeatures(str(tmp_path / "nowhere.pth"))


def test_inception_features_are_torch_fidelitys(tmp_path: Path) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    weights = tmp_path / "inception.pth"
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        # Random weights: a torch-fidelity that is given none would download its own.
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: None)
        patch.setattr(fidelity.torch, "load", lambda *_, **__: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "random")
    torch.save(network.state_dict(), weights)
    images = torch.rand(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    judge = InceptionFeatures(str(weights))
    expected = network((255 * images).round().byte())[0]
    assert judge(images).shape == (2, judge.num_features) == (2, 2048)
    assert float(expected.std()) > 0
    assert torch.allclose(judge(images), expected, rtol=1e-4, atol=1e-5)
    torch.save({"fc.weight": torch.zeros(2)}, weights)
    with pytest.raises(InputError, match="another network"):
        InceptionFeatures(str(weights))
