"""The edit prompts of every shipped concept, and which tokens an edit shares with its source."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import CLIPTokenizer

from evaluation.baselines import edited_prompt
from evaluation.baselines.alignment import align, token_ids, token_map
from evaluation.grids import GridRow
from slider_lightning.backbone import Backbone
from slider_lightning.config import CONF, build
from slider_lightning.errors import InputError
from tests.baseline_rows import AGE

MAN = GridRow("image of a man", "a man", 0)


def shipped_concepts() -> list[Path]:
    paths = sorted((CONF / "concept").glob("*.yaml"))
    return [path for path in paths if "concepts.Concept\n" in path.read_text()]


# Edit prompts


@pytest.mark.parametrize(
    ("scale", "expected"), [(2.0, ", very old"), (0.1, ", very old"), (-3, ", very young"), (0, "")]
)
def test_the_sign_of_the_scale_chooses_the_pole(scale: float, expected: str) -> None:
    assert edited_prompt(MAN, AGE, scale) == f"image of a man{expected}"
    assert edited_prompt(GridRow("a man at home", "a man", 0), AGE, scale) == f"a man{expected} at home"


def test_a_pole_that_does_not_begin_with_the_target_replaces_the_noun() -> None:
    stone = replace(AGE, positive="a marble sculpture of a person", negative="a personal photo")
    assert edited_prompt(MAN, stone, 1) == "image of a marble sculpture of a person"
    assert edited_prompt(MAN, stone, -1) == "image of a personal photo"


@pytest.mark.parametrize("path", shipped_concepts(), ids=lambda path: path.stem)
def test_every_shipped_concept_edits_its_target_and_other_nouns(path: Path) -> None:
    concept = build(yaml.safe_load(path.read_text()))
    for noun, template in itertools.product((concept.target, "a (very) odd thing\\1"), ("{}", "photo of {}, indoors")):
        row = GridRow(template.replace("{}", noun), noun, 0)
        for scale, pole in ((1, concept.positive), (-1, concept.negative)):
            phrase = pole
            if pole == concept.target or pole.startswith((f"{concept.target} ", f"{concept.target},")):
                phrase = noun + pole.removeprefix(concept.target)
            assert edited_prompt(row, concept, scale) == template.replace("{}", phrase)


@pytest.mark.parametrize("prompt", ["image of a woman", "image of a manager", ""])
def test_a_prompt_without_its_noun_is_refused(prompt: str) -> None:
    with pytest.raises(InputError, match="to hold its noun 'a man'"):
        edited_prompt(GridRow(prompt, "a man", 0), AGE, 1)


# Tokens


@pytest.mark.parametrize(
    ("source", "edited", "expected"),
    [
        ("abz", "abxyz", [0, 1, None, None, 2]),
        ("abz", "xabz", [None, 0, 1, 2]),
        ("abcz", "axcz", [0, None, 2, 3]),
        ("abz", "ababz", [0, 1, None, None, 2]),
        ("abz", "abz", [0, 1, 2]),
        ("abcdz", "az", [0, 4]),
        ("ab", "cd", [None, None]),
    ],
)
def test_known_alignments(source: str, edited: str, expected: list[int | None]) -> None:
    assert align([*map(ord, source)], [*map(ord, edited)]) == expected


def test_an_alignment_is_a_longest_common_subsequence() -> None:
    """Against all subsequences of short random words."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        source, edited = (torch.randint(3, (size,), generator=generator).tolist() for size in (5, 6))
        pairs = [(partner, place) for place, partner in enumerate(align(source, edited)) if partner is not None]
        assert all(source[partner] == edited[place] for partner, place in pairs)
        assert pairs == sorted(pairs)
        assert len({partner for partner, _ in pairs}) == len(pairs)
        common = set.intersection(
            *({part for size in range(6) for part in itertools.combinations(word, size)} for word in (source, edited))
        )
        assert len(pairs) == max(map(len, common))


def test_the_token_map_of_a_batch(backbone: Backbone) -> None:
    tokens = token_map(
        backbone,
        ["a man", "a woman, old"],
        [["a man, very old", "a man"], ["a woman, very old", "a woman"]],
        [3.0, 0.5],
    )
    assert tokens.source.shape == tokens.shared.shape == tokens.weight.shape == (2, 2, 77)
    # begin a man , very old end
    assert tokens.source[0, 0, :8].tolist() == [0, 1, 2, 0, 0, 0, 3, 7]
    assert tokens.shared[0, 0, :8].tolist() == [True, True, True, False, False, False, True, True]
    assert tokens.weight[0, 0, :8].tolist() == [1, 1, 1, 3, 3, 3, 1, 1]
    assert tokens.source[0, 1].tolist() == list(range(77))
    assert tokens.shared[0, 1].all()
    assert tokens.source[1, 0, :8].tolist() == [0, 1, 2, 3, 0, 4, 5, 7]
    assert tokens.weight[1, 0].tolist() == [1, 1, 1, 1, 3] + [1] * 72
    # The edit is the shorter one: its padding has no partner where the source has words.
    assert tokens.source[1, 1, :7].tolist() == [0, 1, 2, 5, 0, 0, 6]
    assert tokens.shared[1, 1, :7].tolist() == [True, True, True, True, False, False, True]
    assert (tokens.weight[1, 1] == 1).all()


def test_tokenizers_that_differ_are_refused(backbone: Backbone) -> None:
    first, second = backbone.prompt_encoder.tokenizers
    assert token_ids(backbone, "a man") == first("a man").input_ids
    vocabulary = second.get_vocab()
    vocabulary["man</w>"], vocabulary["woman</w>"] = vocabulary["woman</w>"], vocabulary["man</w>"]
    backbone.prompt_encoder.tokenizers = (first, CLIPTokenizer(vocab=vocabulary, merges=[]))
    with pytest.raises(InputError, match="differ on 'a man'; Prompt-to-Prompt needs a checkpoint with one vocabulary"):
        token_ids(backbone, "a man")
