"""Composed sliders: the strength asked for, when a pair composes, and what is left of each among many."""

import pytest

from evaluation.measurements import Measurements
from evaluation.report import csv_text, markdown
from experiments.paper.composition import Composition
from experiments.paper.composition_many import ManyConfig, Member, drawn_order, kept_effect, poorly_drawn
from experiments.paper.composition_pairs import (
    PairRule,
    PairVerdict,
    common_faults,
    compose_share,
    pair_verdict,
    pairs_of,
    strength_of,
)
from experiments.paper.composition_tables import fault_table, pair_figure, pair_table, strength_table
from experiments.paper.stage import Stage
from slider_lightning.config import build
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.report_measurements import linear_slider

RULE = PairRule(effect=1.0, least_kept=0.7, largest_drift=0.35, scales=(0, 1, 2))
WOMAN = "attribute/gender=woman"


def saturating(age: float, ceiling: float) -> Measurements:
    """Age rises by `age` standard deviations per unit of scale up to a ceiling, a little differently in every row."""
    measured = linear_slider(scales=(0.0, 1.0, 2.0, 3.0))
    shift = (measured.frame["scale"] * age).clip(upper=ceiling) * (0.95 + 0.1 * measured.frame["row"] / 7)
    return Measurements(measured.header, measured.frame.assign(**{"attribute/age": 0.5 * shift}))


def edited(age: float, gender: float = 0.0) -> Measurements:
    """Rows at 0 and 1: age shifted by `age` standard deviations and the share of women by `gender`."""
    measured = linear_slider(age=age, scales=(0.0, 1.0))
    frame = measured.frame
    woman = 0.3 + gender * 0.5 * frame["scale"]  # the standard deviation of the class is 0.5
    return Measurements(measured.header, frame.assign(**{WOMAN: woman, "attribute/gender=man": 1 - woman}))


def test_the_scale_is_that_of_the_effect_asked_for() -> None:
    strength = strength_of(saturating(0.8, 10.0), "age", RULE)
    assert strength is not None
    assert strength.scale == pytest.approx(1 / 0.8, rel=1e-3)
    assert (strength.effect, strength.saturated) == (1.0, False)


def test_a_slider_that_saturates_earlier_is_used_up_to_there() -> None:
    strength = strength_of(saturating(0.6, 0.6), "age", RULE)
    assert strength is not None
    assert strength.scale == 1.0
    assert strength.effect == pytest.approx(0.6)
    assert strength.saturated


def test_a_slider_without_effect_has_no_strength() -> None:
    assert strength_of(linear_slider(age=0.0, scales=(0.0, 1.0, 2.0)), "age", RULE) is None


def test_pairs_move_different_attributes() -> None:
    targets = {"age": "age", "visual_age": "age", "dark": "skin_tone=dark", "pale": "skin_tone=pale"}
    assert pairs_of(targets) == [("age", "dark"), ("age", "pale"), ("visual_age", "dark"), ("visual_age", "pale")]


def verdict(kept_age: float, kept_gender: float, hair: float = 0.0) -> PairVerdict:
    together = edited(age=kept_age, gender=0.8 * kept_gender)
    frame = together.frame
    black = 0.5 + hair * frame["scale"]
    hair_columns = {"attribute/hair=black": black, "attribute/hair=brown": 0.9 - black}
    together = Measurements(together.header, frame.assign(**hair_columns))
    alone = (edited(age=1.0), edited(age=0.0, gender=0.8))
    return pair_verdict(("age", "gender"), ("age", "gender"), alone, together, RULE)


def test_a_pair_composes_where_both_keep_their_shift_and_nothing_else_drifts() -> None:
    good = verdict(0.9, 1.1)
    assert [measure.mean for measure in good.kept] == pytest.approx([0.9, 1.1])
    assert good.faults == ()
    assert set(good.drifts) == {"hair"}
    assert verdict(0.69, 1.0).faults == ("age keeps 0.69",)
    assert verdict(0.69, 0.5).faults == ("age keeps 0.69", "gender keeps 0.50")


def test_the_drift_of_another_attribute_is_a_fault() -> None:
    # sqrt(1/2 ((0.16 / 0.4)^2 + (0.16 / 0.3)^2)) = 0.471 standard deviations
    drifted = verdict(1.0, 1.0, hair=0.16)
    assert drifted.largest_drift == ("hair", pytest.approx(0.4714, abs=1e-4))
    assert drifted.faults == ("hair drifts 0.47",)
    assert verdict(1.0, 1.0, hair=0.1).faults == ()


def test_shares_and_common_faults_count_pairs() -> None:
    verdicts = [verdict(1.0, 1.0), verdict(0.5, 1.0), verdict(0.6, 1.0, hair=0.16)]
    assert compose_share(verdicts) == pytest.approx(1 / 3)
    assert common_faults(verdicts) == {"age keeps too little": (2, 3), "hair drifts": (1, 3)}


def test_tables_and_figure_show_the_verdicts() -> None:
    verdicts = [verdict(1.0, 1.0), verdict(0.5, 1.0)]
    kinds = {"age": "text", "gender": "visual"}
    table = pair_table(verdicts, kinds, RULE)
    assert [row.name for row in table.rows] == ["all pairs", "text with visual"]
    assert "0.500" in markdown(table)
    assert "age keeps 0.50" in csv_text(fault_table(verdicts))
    strengths = {"age": strength_of(saturating(0.8, 10.0), "age", RULE), "gender": None}
    assert "no effect" in markdown(strength_table(strengths, {"age": "age", "gender": "gender"}, RULE))
    figure = pair_figure(verdicts, ["age", "gender"])
    framed = [line for line in figure.axes[0].lines if line.get_marker() == "s"]
    assert len(framed) == 1


def test_the_order_is_drawn_and_neighbours_turn_opposite_ways() -> None:
    order, signs = drawn_order("abcdefgh", 0)
    assert sorted(order) == list("abcdefgh")
    assert order != tuple("abcdefgh")
    assert sum(signs) == 0
    assert drawn_order("abcdefgh", 0) == (order, signs)
    assert drawn_order("abcdefgh", 1)[0] != order


def test_the_own_effect_among_many_is_what_is_lost_without_it() -> None:
    members = [
        Member("age", 1, alone=edited(age=1.0), without=edited(age=0.5)),
        Member("age", -1, alone=edited(age=-1.0), without=edited(age=2.1)),
    ]
    # Together age moves by 1.3: of +1 the first adds 0.8, of -1 the second takes 0.8.
    kept = kept_effect(members, edited(age=1.3))
    assert kept.mean == pytest.approx(0.8)
    assert kept_effect([Member("age", 1, edited(age=1.0), None)], edited(age=1.0)).mean == pytest.approx(1.0)


def test_a_classifier_that_knows_no_bad_drawing_says_nothing_of_it() -> None:
    assert poorly_drawn(edited(age=1.0)) is None


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"effect": 0.0}, "above 0"),
        ({"scales": (-1.0, 0.0, 1.0)}, "from 0 on"),
    ],
)
def test_rules_out_of_range_are_refused(values: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        PairRule(**{**vars(RULE), **values})


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="increasing counts"):
        ManyConfig((2, 1), 0.5, 1, 0)


def test_at_least_fifty_sliders_of_all_attributes_and_both_kinds_are_composed() -> None:
    config = composed("paper/composition", "out=x")
    composition = Composition(Stage(config, None), config)  # type: ignore[arg-type]
    kinds = {name: "visual" if name.startswith("visual_") else "text" for name in composition.members}
    assert sum(len(composition.variants[kind]) for kind in kinds.values()) >= 50
    targets = [
        composed("train", *overrides, "run=outputs/test")["evaluation"]["target"].partition("=")[0]
        for overrides in composition.members.values()
    ]
    probe = build(config["judges"]).classifier
    assert set(targets) == {attribute.name for attribute in probe.schema} - {"quality"}
    many: ManyConfig = build(config["many"])
    assert many.counts[-1] >= 50


def test_only_known_members_can_be_chosen() -> None:
    config = composed("paper/composition", "out=x", "only=[age,smiles]")
    with pytest.raises(InputError, match=r"did you mean only\.smile"):
        Composition(Stage(config, None), config)  # type: ignore[arg-type]
