"""Transfer: effect vectors, their correlation, and what the tables and the figure say of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from evaluation.attributes import schema_to_json
from evaluation.grids import GridRow, GridSpec
from evaluation.judges.panel import Judges
from evaluation.measurements import Measurements
from evaluation.measuring import EditPrompts, Examiner
from evaluation.report import Column, csv_text, markdown
from evaluation.statistics import Measure
from evaluation.sweeps import attribute_shift
from experiments.paper.claims import FAILS, HOLDS, UNDECIDED
from experiments.paper.transfer import GeneratorMove, read_move
from experiments.paper.transfer_figure import transfer_figure
from experiments.paper.transfer_tables import (
    ALL,
    EYE_AREA,
    by_prompts,
    similarities,
    similarity_table,
    summary,
    target_effect,
    vector_table,
    verdict,
)
from experiments.paper.transfer_vectors import (
    EffectRows,
    chance,
    effect_rows,
    eye_area_effect,
    pearson,
    similarity,
    spearman,
)
from experiments.tiny_faces.captions import VOCABULARY
from experiments.tiny_faces.panel import load_judges
from slider_lightning.config import CONF, ROOT, build
from slider_lightning.data.style_pairs import NamedChannels, StyleGanPairs
from slider_lightning.data.style_space import StyleSpace
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.planted_generator import BOTH, EYES, SMILE, PlantedGenerator
from tests.report_measurements import SCHEMA, linear_slider

TEXTS = EditPrompts("a person", "a person")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(ROOT / "assets/tiny_faces")


@pytest.fixture(scope="module")
def space() -> StyleSpace:
    return StyleSpace(PlantedGenerator(), "planted")


def move_of(space: StyleSpace, channel: int, weight: float) -> GeneratorMove:
    pairs = StyleGanPairs(space, NamedChannels({0: {channel: weight}}), {-1.0: -2.0, 1.0: 2.0, 2.0: 3.0})
    return GeneratorMove(pairs, (-1.0, 1.0))


def examiner(judges: Judges) -> Examiner:
    return Examiner(judges, {}, "eyes", TEXTS, "planted")


@pytest.fixture(scope="module")
def gan(space: StyleSpace, judges: Judges) -> Measurements:
    return move_of(space, EYES, -1).measure(range(6), examiner(judges))


def as_slider(space: StyleSpace, judges: Judges, channel: int, weight: float) -> Measurements:
    """A slider that does to images of two nouns what a channel does to faces of other seeds."""
    move = move_of(space, channel, weight)
    nouns = ["a man"] * 4 + ["a woman"] * 4
    rows = [GridRow(f"image of {noun}", noun, seed) for seed, noun in enumerate(nouns, start=20)]

    def images(scale: float, some: slice) -> torch.Tensor:
        return move.render([row.seed for row in rows[some]], scale)

    return examiner(judges).examine("stylegan_slider", rows, (-1.0, 0.0, 1.0), images, {})


@pytest.fixture(scope="module")
def faithful(space: StyleSpace, judges: Judges) -> Measurements:
    return as_slider(space, judges, EYES, -0.5)


def random_rows(entries: int, rows: int, seed: int, mean: torch.Tensor | None = None) -> EffectRows:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, entries, generator=generator).double()
    return EffectRows(tuple(f"a{i}" for i in range(entries)), values + (0 if mean is None else mean))


def test_correlations_are_scipys() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 5, 22))
    second[2, :5] = second[2, 5]
    for row in range(5):
        assert pearson(first, second)[row] == pytest.approx(stats.pearsonr(first[row], second[row]).statistic)
        assert spearman(first, second)[row] == pytest.approx(stats.spearmanr(first[row], second[row]).statistic)


@pytest.mark.parametrize("statistic", [pearson, spearman])
def test_the_likeness_is_that_of_the_means(statistic: object) -> None:
    first, second = random_rows(12, 20, 0), random_rows(12, 30, 1)
    found = similarity(first, second, statistic)
    assert found.mean == pytest.approx(float(statistic(first.values.mean(0).numpy(), second.values.mean(0).numpy())))
    assert found.ci95[0] < 0 < found.ci95[1], "two moves that have nothing in common"
    assert found.n == 30
    assert similarity(first, second, statistic) == found


def test_the_interval_is_that_of_a_bootstrap_of_either_sample() -> None:
    """Against scipy's two-sample bootstrap, which draws other resamples."""
    mean = torch.linspace(-1, 2, 12).double()
    first, second = random_rows(12, 40, 2, mean), random_rows(12, 60, 3, mean.flip(0).square())
    found = similarity(first, second, pearson)
    reference = stats.bootstrap(
        (np.arange(40), np.arange(60)),
        lambda i, j: float(pearson(first.values[i].mean(0).numpy(), second.values[j].mean(0).numpy())),
        n_resamples=2000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.ci95 == pytest.approx((reference.low, reference.high), abs=0.02)


def test_the_interval_narrows_around_the_truth_with_more_images() -> None:
    mean = torch.linspace(-1, 2, 12).double()
    widths = []
    for rows in (10, 1000):
        low, high = similarity(random_rows(12, rows, 4, mean), random_rows(12, rows, 5, 2 * mean), pearson).ci95
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    assert low > 0.98


def test_vectors_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="same 3 or more"):
        similarity(random_rows(2, 5, 0), random_rows(2, 5, 1), pearson)
    with pytest.raises(InputError, match="same 3 or more"):
        similarity(random_rows(4, 5, 0), random_rows(5, 5, 1), pearson)
    idle = EffectRows(tuple(f"a{i}" for i in range(4)), torch.zeros(5, 4))
    with pytest.raises(InputError, match="changes none"):
        similarity(random_rows(4, 5, 0), idle, pearson)
    with pytest.raises(InputError, match="at least 2"):
        similarity(random_rows(4, 1, 0), random_rows(4, 5, 1), pearson)


def test_effects_are_signed_and_per_unit_of_scale() -> None:
    slider = linear_slider(age=0.25)
    rows = effect_rows(slider)
    assert rows.entries == ("age", "gender=woman", "hair=black", "hair=brown", "hair=red")
    measures = rows.measures()
    assert measures["age"].mean == pytest.approx(0.25)
    assert measures["age"].mean == pytest.approx(attribute_shift(slider.sweep(), "age", -1, origin=0).mean / 4)
    assert {measures[entry].mean for entry in rows.entries[1:]} == {0}
    assert target_effect(slider, "age").mean == pytest.approx(0.25)
    assert rows.without("hair=red").entries == ("age", "gender=woman")
    assert rows.without(None).entries == rows.entries


def test_eye_area_rests_on_the_rows_that_have_eyes() -> None:
    slider = linear_slider(rows=4, scales=(-1.0, 0.0, 1.0))
    assert eye_area_effect(slider) is None
    areas = [10.0, 20.0, 50.0] * 3 + [10.0, float("nan"), 20.0]
    measured = eye_area_effect(Measurements(slider.header, slider.frame.assign(eye_area=areas)))
    assert measured
    assert (measured.mean, measured.n) == (pytest.approx(1.0), 3)
    assert eye_area_effect(Measurements(slider.header, slider.frame.assign(eye_area=float("nan")))) is None


def test_a_slider_that_does_what_the_channel_does_correlates(gan: Measurements, faithful: Measurements) -> None:
    found = similarities(effect_rows(gan), effect_rows(faithful), "eye_size")
    assert next(iter(found)) == "Pearson, all"
    assert found["Pearson, all"].ci95[0] > 0.9
    assert target_effect(faithful, "eye_size").ci95[0] > 0
    assert target_effect(gan, "eye_size").mean > 1.3 * target_effect(faithful, "eye_size").mean
    table = similarity_table(gan, faithful, "eye_size")
    assert [row.name for row in table.rows] == [ALL, "a man", "a woman"]
    rises, correlates = (table.columns.index(Column(name)) for name in ("target rises", "correlates, all"))
    assert {row.cells[rises].text for row in table.rows} == {HOLDS}
    assert all(row.cells[correlates].text.startswith(f"{HOLDS}, p = 0.0") for row in table.rows)


@pytest.mark.parametrize(("channel", "weight", "rises"), [(EYES, 1, FAILS), (BOTH, -1, HOLDS)])
def test_one_that_does_something_else_is_told_apart(
    space: StyleSpace, judges: Judges, gan: Measurements, channel: int, weight: float, rises: str
) -> None:
    other = as_slider(space, judges, channel, weight)
    table = similarity_table(gan, other, "eye_size")
    assert table.rows[0].cells[1].text == rises
    found = similarities(effect_rows(gan), effect_rows(other), "eye_size")["Pearson, all"]
    assert found.mean < (-0.9 if rises == FAILS else 0.9)
    if rises == FAILS:
        assert table.rows[0].cells[4].text.startswith(FAILS)


def test_a_move_of_another_attribute_does_not_correlate(space: StyleSpace, judges: Judges, gan: Measurements) -> None:
    smile = as_slider(space, judges, SMILE, 1)
    assert abs(similarities(effect_rows(gan), effect_rows(smile), None)["Pearson, all"].mean) < 0.4


def test_p_is_that_of_a_permutation_test_over_entries() -> None:
    first, second = random_rows(9, 20, 0), random_rows(9, 30, 1)
    means = [rows.values.mean(0).numpy() for rows in (first, second)]
    reference = stats.permutation_test(
        (means[0],),
        lambda x: float(pearson(x, means[1])),
        permutation_type="pairings",
        n_resamples=5000,
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    two_sided = np.mean(np.abs(reference.null_distribution) >= abs(reference.statistic))
    assert chance(first, second) == pytest.approx(two_sided, abs=0.03)
    assert chance(first, first) == pytest.approx(1 / 10001)


def test_verdicts_follow_the_interval_and_p() -> None:
    ends: Sequence[tuple[float, float]] = ((0.1, 0.3), (-0.1, 0.3), (-0.3, -0.1))
    assert [verdict(Measure(0.0, end, 4)) for end in ends] == [HOLDS, UNDECIDED, FAILS]
    assert verdict(Measure(0.2, (0.1, 0.3), 4), 0.05) == UNDECIDED


def test_the_table_of_vectors_holds_both_side_by_side(gan: Measurements, faithful: Measurements) -> None:
    table = vector_table(gan, faithful, "channel 0")
    assert [column.name for column in table.columns] == [
        "StyleGAN",
        "slider, all prompts",
        "slider, a man",
        "slider, a woman",
    ]
    names = [row.name for row in table.rows]
    assert names == [*effect_rows(gan).entries, EYE_AREA]
    row = next(row for row in table.rows if row.name == "eye_size")
    assert [cell.measure.n for cell in row.cells if cell.measure] == [6, 8, 4, 4]
    assert "channel 0" in markdown(table)
    assert "eye_size" in csv_text(table)


def test_without_a_target_only_likeness_is_told(gan: Measurements, faithful: Measurements) -> None:
    table = similarity_table(gan, faithful, None)
    assert [column.name for column in table.columns] == ["Pearson, all", "Spearman, all", "correlates, all"]
    found = {
        name: similarities(effect_rows(gan), effect_rows(some), None) for name, some in by_prompts(faithful).items()
    }
    assert "transfer/Pearson, all/a man" in summary(found)


def test_the_figure_has_a_panel_per_noun_and_a_point_per_entry(gan: Measurements, faithful: Measurements) -> None:
    figure = transfer_figure(gan, faithful, "eye_size")
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title().split(",")[0] for axes in panels] == [ALL, "a man", "a woman"]
    assert {len(axes.containers) for axes in panels} == {len(effect_rows(gan).entries)}


def test_a_single_noun_is_not_told_twice() -> None:
    slider = linear_slider()
    one = Measurements(slider.header, slider.frame.assign(noun="a man"))
    assert list(by_prompts(one)) == [ALL]


def test_the_move_is_that_of_the_pairs(space: StyleSpace, gan: Measurements) -> None:
    move = move_of(space, EYES, -1)
    assert "layer 0 (-1) by -2 at scale -1, +2 at scale +1" in move.words
    channel, weight = move.channels[0]
    ws = space.latents([3], 0.7)
    assert torch.equal(move.render([3], 1.0), space.render(ws, {channel: 2 * weight}))
    assert torch.equal(move.render([3], 0), space.render(ws))
    assert move.strip([0, 1]).width > 0
    assert gan.header.settings["moved"] == move.words


def test_pairs_of_another_kind_and_other_scales_are_refused(space: StyleSpace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pairs of a StyleGAN"):
        read_move(None, (-1.0, 1.0))
    folder = {"_target_": "slider_lightning.data.pairs.sources.LevelFolder", "folder": str(tmp_path)}
    with pytest.raises(InputError, match="pairs of a StyleGAN"):
        read_move(folder, (-1.0, 1.0))
    pairs = move_of(space, EYES, 1).pairs
    for scales in ((-3.0, 1.0), (1.0, 2.0), ()):
        with pytest.raises(InputError, match="both sides of 0"):
            GeneratorMove(pairs, scales)


def test_measurements_of_other_classifiers_are_not_compared(gan: Measurements) -> None:
    slider = linear_slider()
    assert slider.header.schema == schema_to_json(SCHEMA)
    with pytest.raises(InputError, match="one classifier"):
        similarity_table(gan, replace(slider), None)


def test_the_command_composes_and_its_prompts_are_words_of_the_world() -> None:
    config = composed("paper/transfer", "out=x")
    spec: GridSpec = build(yaml.safe_load((CONF / "prompts" / f"{config['prompts']}.yaml").read_text()), "prompts.")
    words = {word for prompt, _ in spec.prompts.prompts for word in prompt.replace(",", "").split()}
    assert words <= set(VOCABULARY)
    assert len(spec.rows) >= 100
