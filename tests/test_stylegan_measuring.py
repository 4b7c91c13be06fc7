"""How the world's StyleGAN generator is measured: each figure in closed form, and all of them on a small one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.judges.panel import Judges
from experiments.tiny_faces.faces import SCHEMA
from experiments.tiny_faces.measure_stylegan import (
    DrawnFaces,
    PooledPerceptual,
    eye_figures,
    histogram_distances,
    meaning_figures,
    measure_stylegan,
    sample_sheet,
)
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.render import render
from experiments.tiny_faces.stylegan.latent import faces_of, z_dim
from experiments.tiny_faces.stylegan.networks import Generator, GeneratorSize
from slider_lightning.config import ROOT


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def generator() -> Generator:
    """An untrained generator of 16 px."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Generator(GeneratorSize(z_dim(), 16, 16, 2, (8, 8, 6))).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(ROOT / "assets" / "tiny_faces")


def test_histogram_distance_in_closed_form() -> None:
    schema = tuple(a for a in SCHEMA if a.name in ("age", "gender"))
    first = {"age": torch.tensor([-0.2, 0.05, 0.55, 1.3]), "gender": torch.eye(2)[[0, 0, 0, 1]]}
    second = {"age": torch.tensor([0.01, 0.02, 0.56, 0.99]), "gender": torch.eye(2)[[1, 1, 1, 1]]}
    assert histogram_distances(schema, first, second) == {"age": 0.0, "gender": 0.75}
    third = {"age": torch.tensor([0.31, 0.05, 0.55, 0.95]), "gender": torch.eye(2)[[0, 1, 0, 0]]}
    assert histogram_distances(schema, first, third) == {"age": 0.25, "gender": 0.0}
    with_itself = histogram_distances(schema, first, first)
    assert with_itself == {"age": 0.0, "gender": 0.0}


def test_two_samples_of_one_distribution_differ_as_much_as_the_docstring_says() -> None:
    schema = tuple(a for a in SCHEMA if a.name == "age")
    n, trials = 400, 60
    rows = torch.rand(2 * trials, n, generator=torch.Generator().manual_seed(0)).split(trials)
    mean = sum(histogram_distances(schema, {"age": a}, {"age": b})["age"] for a, b in zip(*rows, strict=True)) / trials
    assert mean == pytest.approx(math.sqrt(10 / (math.pi * n)), rel=0.1)


def test_meaning_is_perfect_at_the_truth_and_zero_at_the_mean() -> None:
    faces = faces_of(normal(32, z_dim()))
    truth = {
        a.name: faces.values[a.name] if a.kind == "continuous" else F.one_hot(faces.values[a.name], a.width).float()
        for a in SCHEMA
    }
    perfect = meaning_figures(SCHEMA, truth, faces)
    assert perfect.keys() == {f"{'r2' if a.kind == 'continuous' else 'accuracy'}/{a.name}" for a in SCHEMA}
    assert set(perfect.values()) == {1.0}
    mean = {**truth, "age": truth["age"].mean().expand(32), "gender": 1 - truth["gender"]}
    worst = meaning_figures(SCHEMA, mean, faces)
    assert worst["r2/age"] == pytest.approx(0, abs=1e-5)
    assert worst["accuracy/gender"] == 0


def test_eye_figures_count_images_without_eyes(judges: Judges) -> None:
    assert judges.parser is not None
    drawn = render(faces_of(normal(6, z_dim())), 64)
    images = torch.cat([drawn.images, torch.full((2, 3, 64, 64), 0.5)])
    area = torch.cat([judges.parser.eye_area(drawn.images) / 2, torch.ones(2)])
    figures = eye_figures(judges.parser, images, area)
    assert figures == pytest.approx({"eyes_found": 0.75, "eye_area_error": 1.0, "eye_area_bias": 1.0}, abs=1e-4)
    assert eye_figures(judges.parser, images[-2:], area[-2:]) == {"eyes_found": 0.0}


def test_pooled_perceptual_features_see_blur(judges: Judges) -> None:
    read = PooledPerceptual(judges.distance)
    images = render(faces_of(normal(4, z_dim())), 64).images
    soft = F.avg_pool2d(images, 3, 1, 1)
    assert read(images).shape == (4, sum(judges.distance.widths))
    assert torch.equal(read(images), read(images))
    assert (read(images) - read(soft)).norm(dim=1).min() > 0.1


def test_a_generator_is_measured_against_the_drawn_faces(generator: Generator, judges: Judges) -> None:
    figures, sheet = measure_stylegan(generator, judges, lambda images: images, 32)
    assert sheet.shape == (64, 3, 16, 16)
    assert figures["stylegan/faces"] == 32
    assert all(math.isfinite(value) for value in figures.values())
    sets = {name.split("/histogram")[0] for name in figures if name.endswith("histogram/age")}
    assert sets == {
        "stylegan/generated/psi_1",
        "stylegan/generated/psi_0.7",
        "stylegan/rendered",
        "stylegan/reconstructed",
    }
    figures |= {
        f"stylegan/{key}/histograms": sum(value for name, value in figures.items() if f"{key}/histogram/" in name)
        for key in ("rendered", "reconstructed", "generated/psi_1")
    }
    for name in ("clip/fid", "clip/kid", "perceptual/fid", "perceptual/kid", "histograms"):
        rendered, untrained = (figures[f"stylegan/{key}/{name}"] for key in ("rendered", "generated/psi_1"))
        assert rendered < untrained, name
        assert figures[f"stylegan/reconstructed/{name}"] == rendered, "the VAE here gives back what it gets"
    perfect, poor = (figures[f"stylegan/{key}/accuracy/background"] for key in ("rendered", "generated/psi_1"))
    assert perfect > 0.9 > poor


def test_measured_faces_are_fresh_and_disjoint(generator: Generator) -> None:
    first, second = (DrawnFaces.draw(generator, 8, seed) for seed in (1, 2))
    assert first.images.shape == (8, 3, 16, 16)
    assert torch.equal(first.images, render(faces_of(first.z), 16).images)
    assert not (first.z[:, None] == second.z[None]).all(-1).any()


def test_the_sheet_has_generated_faces_above_drawn_ones() -> None:
    generated = torch.arange(15.0).view(15, 1, 1, 1).expand(-1, 3, 2, 2)
    sheet = sample_sheet(generated, generated + 100)[:, 0, 0, 0].tolist()
    assert sheet == [*range(12), *range(100, 112), *range(12, 15), *range(112, 115)]
