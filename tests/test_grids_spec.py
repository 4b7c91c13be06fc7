"""Prompt sets and the rows of a grid."""

from dataclasses import replace

import pytest

from evaluation.grids import GridSpec, PromptSet
from slider_lightning.config import CONF, build
from slider_lightning.errors import InputError
from tests.conftest import composed

SPEC = GridSpec(PromptSet("two", ("a man", "a woman"), ("image of {}",)), seeds_per_prompt=3, first_seed=5)


def test_every_row_has_a_seed_of_its_own() -> None:
    assert [(row.prompt, row.noun, row.seed) for row in SPEC.rows] == [
        *(("image of a man", "a man", seed) for seed in (5, 6, 7)),
        *(("image of a woman", "a woman", seed) for seed in (8, 9, 10)),
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "prompts").glob("*.yaml")))
def test_every_prompt_set_builds_and_is_named_after_its_file(name: str) -> None:
    spec = build(composed(f"prompts/{name}")["prompts"])
    smaller = build(composed(f"prompts/{name}", "prompts.seeds_per_prompt=5")["prompts"])
    size = {"tiny_faces": (3, 102), "transfer": (6, 144), "composition": (1, 64)}.get(name, (25, 500))
    assert spec.prompts.name == name
    assert (len(spec.prompts.prompts), len(spec.rows)) == size
    assert len({row.seed for row in spec.rows}) == len(spec.rows)
    assert len(smaller.rows) == 5 * size[0]
    assert all(row.noun in row.prompt for row in spec.rows)


def test_the_person_set_is_the_published_one() -> None:
    prompts = build(composed("prompts/person")["prompts"]).prompts
    assert prompts.nouns == ("a person", "a man", "a woman", "a doctor", "a barista")
    assert {"a doctor", "portrait of a barista"} <= {prompt for prompt, _ in prompts.prompts}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nouns": ()}, "prompts.nouns"),
        ({"nouns": ("a man", " ")}, "none of them blank"),
        ({"nouns": ("a man", "a man")}, "'a man' twice"),
        ({"templates": ("image of",)}, r"hold \{\} once, but got 'image of'"),
        ({"templates": ("{} and {}",)}, "once"),
        ({"name": ""}, "prompts.name"),
    ],
)
def test_prompts_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SPEC.prompts, **change)


@pytest.mark.parametrize("change", [{"seeds_per_prompt": 0}, {"first_seed": -1}, {"seeds_per_prompt": 2.5}])
def test_numbers_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        replace(SPEC, **change)
