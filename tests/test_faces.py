"""The renderer and the captions against what they promise."""

import random

import pytest
import torch

from experiments.tiny_faces.captions import VOCABULARY, age_word, caption, captions, tags
from experiments.tiny_faces.faces import SCHEMA, class_index, is_held_out, sample_faces
from experiments.tiny_faces.pipeline import END, build_tokenizer
from experiments.tiny_faces.render import PARSE_CLASSES, render


def test_faces_and_pictures_are_functions_of_the_seed() -> None:
    first, second, other = (render(sample_faces(4, seed)).images for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_age_correlates_with_gender_and_glasses_and_nothing_else_does() -> None:
    values = sample_faces(20_000, 0).values
    table = torch.corrcoef(torch.stack([values[a.name].float() for a in SCHEMA if a.name != "hair_color"]))
    names = [a.name for a in SCHEMA if a.name != "hair_color"]
    age = dict(zip(names, table[0].tolist(), strict=True))
    assert age["glasses"] > 0.25
    assert age["gender"] < -0.15
    assert max(abs(v) for k, v in age.items() if k not in ("age", "gender", "glasses")) < 0.05


def test_held_out_combinations_occur_only_when_asked_for() -> None:
    assert not bool(is_held_out(sample_faces(5000, 1).values).any())
    assert 0.05 < float(is_held_out(sample_faces(5000, 1, held_out=True).values).float().mean()) < 0.3


def test_hair_greys_with_age() -> None:
    values = sample_faces(20_000, 2).values
    grey = values["hair_color"] == class_index("hair_color", "grey")
    assert float(grey[values["age"] < 0.5].float().mean()) == 0
    assert float(grey[values["age"] > 0.9].float().mean()) > 0.7


def test_eye_area_is_the_area_of_two_ellipses() -> None:
    faces = sample_faces(64, 3).with_values(quality=0, glasses=0)
    faces.hidden["poor_amount"].zero_()
    faces.hidden["poor_shift"].zero_()
    size = faces.values["eye_size"]
    pixels_per_unit = 32
    closed_form = 2 * torch.pi * (0.100 + 0.070 * size) * (0.064 + 0.050 * size) * pixels_per_unit**2
    assert torch.allclose(render(faces).eye_area, closed_form, rtol=0.03)


@pytest.mark.parametrize(("name", "low", "high", "part"), [("glasses", 0, 1, "glasses"), ("eye_size", 0.0, 1.0, "eye")])
def test_an_attribute_changes_the_part_it_names(name: str, low: float, high: float, part: str) -> None:
    faces = sample_faces(16, 4)
    areas = [(render(faces.with_values(**{name: v})).labels == PARSE_CLASSES.index(part)).sum() for v in (low, high)]
    assert areas[1] > 1.5 * areas[0]


def test_uncaptioned_attributes_never_reach_a_caption() -> None:
    values = {a.name: 1 for a in SCHEMA}
    hidden = {a.name: 0 for a in SCHEMA if not a.captioned}
    assert hidden
    assert tags(values) == tags({**values, **hidden})


def test_captions_drop_tags_hide_gender_and_stay_empty_at_times() -> None:
    texts = captions(sample_faces(4000, 6), 0)
    assert 0.07 < texts.count("") / len(texts) < 0.13
    assert 0.3 < sum("a person" in text for text in texts) / len(texts) < 0.6
    assert len({text.count(",") for text in texts}) > 5
    values = {a.name: 0 for a in SCHEMA}
    assert caption(values, random.Random(1)) == caption(values, random.Random(1))


@pytest.mark.parametrize(("age", "word"), [(0.0, "very young"), (0.5, "middle-aged"), (1.0, "very old")])
def test_age_words(age: float, word: str) -> None:
    assert age_word(age) == word


def test_every_word_of_the_captions_is_one_token_and_any_text_tokenizes() -> None:
    tokenizer = build_tokenizer(pad_token=END)
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("Žluťoučký 猫 qwxz!").input_ids) > 5
    assert tokenizer.eos_token_id != 2
