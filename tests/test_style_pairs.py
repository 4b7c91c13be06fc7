"""Twins that a StyleGAN draws: what decides them, what is rendered when, and what is refused."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from experiments.tiny_faces.stylegan.space import open_style_space
from experiments.tiny_faces.stylegan.training import save_generator
from slider_lightning.config import CONF, build, check, plain_config, register_resolvers, typed
from slider_lightning.data.style_pairs import NamedChannels, StyleGanPairs, strength_levels
from slider_lightning.data.style_space import StyleChannel, StyleSpace
from slider_lightning.errors import InputError
from tests.small_generator import SIZE, new_generator

STRENGTHS = {-1.0: -4.0, 0.5: 2.0, 1.0: 4.0}


@pytest.fixture(scope="module")
def space() -> StyleSpace:
    return StyleSpace(new_generator(), "tiny")


def new_pairs(space: StyleSpace, **changes: Any) -> StyleGanPairs:
    pairs = StyleGanPairs(space, NamedChannels({3: (5,)}), STRENGTHS, count=2, seed=8)
    return dataclasses.replace(pairs, **changes)


def test_twins_are_renderings_at_their_strengths(space: StyleSpace, tmp_path: Path) -> None:
    channels = NamedChannels({3: (5,), "synthesis.b4.conv1": {2: -0.5}})
    twins = new_pairs(space, channels=channels).twins(tmp_path)
    assert [twin.name for twin in twins] == ["000008", "000009"]
    for seed, twin in zip((8, 9), twins, strict=True):
        assert [scale for scale, _ in twin.images] == [-1.0, 0.5, 1.0]
        for scale, path in twin.images:
            moves = {space.channel(3, 5): STRENGTHS[scale], space.channel(0, 2): -0.5 * STRENGTHS[scale]}
            expected = space.render(space.latents([seed]), moves)[0]
            pixels = np.asarray(Image.open(path))
            np.testing.assert_array_equal(pixels, (expected * 255).round().permute(1, 2, 0).numpy())
    manifest = json.loads((twins[0].images[0][1].parents[1] / "manifest.json").read_text())
    assert manifest["generator"] == "tiny"
    assert manifest["channels"] == [["synthesis.b4.conv1", 2, -0.5], ["synthesis.b8.conv1", 5, 1.0]]
    assert len(manifest["files"]) == 6


def test_images_are_rendered_once_and_repaired(
    space: StyleSpace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def render(**changes: Any) -> tuple[dict[Path, tuple[int, bytes]], list[str]]:
        caplog.clear()
        twins = new_pairs(space, **changes).twins(tmp_path)
        files = {path: (path.stat().st_ino, path.read_bytes()) for twin in twins for _, path in twin.images}
        return files, [text for text in caplog.messages if text.startswith("Rendering")]

    def contents(files: dict[Path, tuple[int, bytes]]) -> dict[Path, bytes]:
        return {path: content for path, (_, content) in files.items()}

    first, told = render()
    assert told == ["Rendering 6 images of tiny on cpu."]
    assert render() == (first, [])
    damaged, gone = list(first)[1], list(first)[5]
    damaged.write_bytes(b"half a file")
    repaired, told = render()
    assert f"{damaged} is damaged" in caplog.text
    assert contents(repaired) == contents(first)
    assert told == ["Rendering 3 images of tiny on cpu."]
    gone.unlink()
    leftover = gone.with_name(".000009-abc.png")
    leftover.touch()
    more, told = render(count=3)
    assert told == ["Rendering 6 images of tiny on cpu."]
    assert {path: more[path][1] for path in first} == contents(first)
    assert not leftover.exists()
    (damaged.parents[1] / "manifest.json").write_text("{")
    again, told = render()
    assert contents(again) == contents(first)
    assert told == ["Rendering 6 images of tiny on cpu."]


def test_the_order_in_which_channels_are_written_changes_nothing(space: StyleSpace, tmp_path: Path) -> None:
    layers: list[tuple[int | str, dict[int, float]]] = [(3, {5: 1.0, 2: 0.5}), ("synthesis.b4.conv1", {2: -0.5})]
    one = new_pairs(space, channels=NamedChannels(dict(layers))).twins(tmp_path)
    turned = [(layer, dict(reversed(channels.items()))) for layer, channels in reversed(layers)]
    assert new_pairs(space, channels=NamedChannels(dict(turned))).twins(tmp_path) == one


def test_what_decides_the_images_decides_their_folder(space: StyleSpace, tmp_path: Path) -> None:
    folders = [
        new_pairs(space, **changes).twins(tmp_path)[0].images[0][1].parents[1]
        for changes in (
            {},
            {"count": 1},
            {"seed": 9},
            {"channels": NamedChannels({"synthesis.b8.conv1": {5: 1.0}})},
            {"channels": NamedChannels({3: (6,)})},
            {"channels": NamedChannels({3: {5: -1.0}})},
            {"strengths": {-1.0: -4.0, 1.0: 4.0}},
            {"truncation_psi": 1.0},
        )
    ]
    assert folders[0] == folders[1] == folders[2] == folders[3]
    assert len(set(folders[3:])) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strengths": {1: 3}}, "2 or more slider scales"),
        ({"strengths": {}}, "2 or more slider scales"),
        ({"strengths": {-1: 3, 1: 3}}, "3 at scale -1 and 3 at scale 1"),
        ({"strengths": {2: 1, -1: -4, 1: 3}}, "3 at scale 1 and 1 at scale 2"),
        ({"strengths": {-1: float("nan"), 1: 3}}, "numbers"),
        ({"count": 0}, "pairs.count"),
        ({"seed": -1}, "pairs.seed"),
        ({"channels": NamedChannels({})}, "none"),
        ({"channels": NamedChannels({3: (5,), "synthesis.b8.conv1": (5,)})}, "each once"),
        ({"channels": NamedChannels({3: {5: 0.0}})}, "weight other than 0"),
        ({"channels": NamedChannels({3: (50,)})}, "from 0 to 11, but got 50"),
    ],
)
def test_what_makes_no_twins_is_refused(space: StyleSpace, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        new_pairs(space, **changes).twins(tmp_path)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def composed_pairs(*overrides: str) -> dict[str, Any]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain_config(compose("pairs/stylegan", list(overrides)))
    check(config)
    return config["pairs"]


def test_the_config_of_the_shipped_generator_builds_pairs(tmp_path: Path) -> None:
    save_generator(new_generator(), SIZE, tmp_path)
    config = composed_pairs("pairs.channels.layers={3:[5,6],synthesis.b4.conv1:{2:-0.5}}")
    assert config["generator"]["folder"].endswith("assets/tiny_faces/stylegan")
    config["generator"]["folder"] = str(tmp_path)
    pairs = build(config)
    assert isinstance(pairs, StyleGanPairs)
    assert pairs.generator.layers == open_style_space(str(tmp_path)).layers
    assert pairs.channels.channels(pairs.generator) == (
        (StyleChannel("synthesis.b8.conv1", 5), 1.0),
        (StyleChannel("synthesis.b8.conv1", 6), 1.0),
        (StyleChannel("synthesis.b4.conv1", 2), -0.5),
    )
    assert pairs.levels == ((-2.0, -6.0), (-1.0, -3.0), (1.0, 3.0), (2.0, 6.0))


def test_strengths_of_your_own_replace_the_shipped_ones() -> None:
    config = composed_pairs("pairs.channels.layers={3:[5]}", "pairs.strengths={1.5:4,-1:-2}")
    strengths = typed(config["strengths"], Mapping[float, float], "pairs.strengths")
    assert strength_levels(strengths) == ((-1.0, -2.0), (1.5, 4.0))


def test_the_config_of_a_pickle_trusts_nothing_by_itself() -> None:
    config = composed_pairs(
        "generator@pairs.generator=stylegan",
        "pairs.generator.pickle=a.pkl",
        "pairs.generator.code=stylegan3",
        "pairs.channels.layers={4:[847]}",
    )
    assert config["generator"]["trust_pickle"] is False
    assert config["channels"]["layers"] == {4: [847]}
