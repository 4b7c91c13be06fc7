"""Style space: what a move changes, by how much, and twins made of moves."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor, nn

from experiments.tiny_faces.stylegan.networks import Generator, GeneratorSize
from experiments.tiny_faces.stylegan.space import open_style_space
from experiments.tiny_faces.stylegan.training import save_generator
from slider_lightning.config import CONF, build, check, plain_config, register_resolvers
from slider_lightning.data.style_pairs import NamedChannels, StyleGanPairs
from slider_lightning.data.style_space import StyleChannel, StyleLayer, StyleSpace
from slider_lightning.errors import InputError

SIZE = GeneratorSize(z_dim=12, w_dim=16, mapping_width=24, mapping_layers=2, channels=(16, 12, 8))
STRENGTHS = {-1.0: -4.0, 0.5: 2.0, 1.0: 4.0}


def new_generator(size: GeneratorSize = SIZE) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        generator = Generator(size)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                nn.init.constant_(parameter, 0.1)
    return generator


@pytest.fixture(scope="module")
def space() -> StyleSpace:
    return StyleSpace(new_generator(), "tiny")


def affine_outputs(space: StyleSpace, run: Callable[[], object]) -> dict[str, Tensor]:
    """What every affine layer returned while `run` ran, hooks of the moves included."""
    seen: dict[str, Tensor] = {}
    handles = []

    def observe(synthesis: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Hooks run in the order of their registration: these come after those of the moves.
        for layer in space.layers:
            affine = space.generator.get_submodule(f"{layer.name}.affine")
            handles.append(affine.register_forward_hook(lambda m, i, out, name=layer.name: seen.update({name: out})))

    handles.append(space.generator.synthesis.register_forward_pre_hook(observe))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


class Backwards(nn.Module):
    """A StyleGAN whose modules are registered in another order than they run, each layer on its own row of ws."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.num_ws = 4, 3
        self.mapping = Repeat()
        self.synthesis = nn.Module()
        self.synthesis.last, self.synthesis.first = Scale(5), Scale(2)
        self.synthesis.input = Scale(4)
        self.synthesis.forward = self.draw

    def draw(self, ws: Tensor, noise_mode: str) -> Tensor:
        rows = (self.synthesis.input(ws[:, 0]), self.synthesis.first(ws[:, 2]), self.synthesis.last(ws[:, 1]))
        return torch.stack([row.mean(1) for row in rows], 1)[..., None, None].expand(-1, -1, 2, 2)


class Repeat(nn.Module):
    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float) -> Tensor:
        return truncation_psi * z[:, None].repeat(1, 3, 1)


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(4, channels)

    def forward(self, w: Tensor) -> Tensor:
        return self.affine(w)


def test_layers_stand_in_order_of_the_forward_pass(space: StyleSpace) -> None:
    assert space.layers == (
        StyleLayer("synthesis.b4.conv1", 16),
        StyleLayer("synthesis.b4.torgb", 16),
        StyleLayer("synthesis.b8.conv0", 16),
        StyleLayer("synthesis.b8.conv1", 12),
        StyleLayer("synthesis.b8.torgb", 12),
        StyleLayer("synthesis.b16.conv0", 12),
        StyleLayer("synthesis.b16.conv1", 8),
        StyleLayer("synthesis.b16.torgb", 8),
    )
    # As registered it would be last, first; the affine of the Fourier features is no style.
    assert [layer.name for layer in StyleSpace(Backwards(), "backwards").layers] == [
        "synthesis.first",
        "synthesis.last",
    ]


def test_a_layer_is_found_by_number_and_by_name(space: StyleSpace) -> None:
    for number, layer in enumerate(space.layers):
        assert space.layer(number) == space.layer(str(number)) == space.layer(layer.name) == layer
    assert space.channel(3, 11) == StyleChannel("synthesis.b8.conv1", 11)


@pytest.mark.parametrize(
    ("layer", "channel", "words"),
    [
        (8, 0, "0: synthesis.b4.conv1 (16), 1: synthesis.b4.torgb (16)"),
        (-1, 0, "7: synthesis.b16.torgb (8)"),
        ("b4.conv1", 0, "synthesis.b4.conv1"),
        (3, 12, "synthesis.b8.conv1 of tiny from 0 to 11, but got 12"),
        (3, -1, "from 0 to 11, but got -1"),
    ],
)
def test_an_unknown_layer_or_channel_is_told_what_there_is(
    space: StyleSpace, layer: int | str, channel: int, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        space.channel(layer, channel)
    assert words in str(caught.value)


def test_a_move_adds_its_deviations_to_one_channel_of_one_layer(space: StyleSpace) -> None:
    ws = space.latents([1, 2, 3])
    moved = StyleChannel("synthesis.b8.conv1", 5)
    plain = affine_outputs(space, lambda: space.render(ws))
    styles = affine_outputs(space, lambda: space.render(ws, {moved: -2.5}))
    expected = {name: style.clone() for name, style in plain.items()}
    expected[moved.layer][:, 5] -= 2.5 * space.deviations()[moved.layer][5]
    assert list(styles) == [layer.name for layer in space.layers]
    for name, style in styles.items():
        torch.testing.assert_close(style, expected[name], rtol=0, atol=1e-6)
    assert not torch.equal(styles[moved.layer], plain[moved.layer])


def test_moves_of_one_layer_add_up(space: StyleSpace) -> None:
    ws = space.latents([4])
    moves = {space.channel(2, 1): 1.0, space.channel(2, 3): -2.0, space.channel(4, 0): 3.0}
    shifts = {name: torch.zeros_like(deviation) for name, deviation in space.deviations().items()}
    for channel, amount in moves.items():
        shifts[channel.layer][channel.channel] = amount * space.deviations()[channel.layer][channel.channel]
    styles = affine_outputs(space, lambda: space.render(ws, moves))
    for name, style in space.styles(ws).items():
        torch.testing.assert_close(styles[name], style + shifts[name], rtol=0, atol=1e-6)


def test_without_a_move_it_is_the_generator_bit_for_bit(space: StyleSpace) -> None:
    ws = space.latents([5, 6])
    plain = ((space.generator.synthesis(ws, noise_mode="const") + 1) / 2).clamp(0, 1)
    assert torch.equal(space.render(ws), plain)
    assert torch.equal(space.render(ws, {}), plain)
    space.render(ws, {space.channel(0, 0): 5.0})
    assert torch.equal(space.render(ws), plain)
    assert plain.shape == (2, 3, 16, 16)


def test_no_hook_stays_behind(space: StyleSpace) -> None:
    ws = space.latents([7])
    space.render(ws, {space.channel(0, 0): 1.0})
    with pytest.raises(RuntimeError):
        space.render(ws[:, :, :-1], {space.channel(0, 0): 1.0})
    with pytest.raises(InputError, match="Expected a channel"):
        space.render(ws, {StyleChannel("synthesis.b4.conv1", 0): 1.0, StyleChannel("synthesis.b4.conv1", 99): 1.0})
    assert not any(module._forward_hooks for module in space.generator.modules())


def test_styles_are_those_of_the_forward_pass(space: StyleSpace) -> None:
    # Rows that differ: each layer must read its own.
    ws = torch.cat([space.latents([seed])[:, :1] for seed in range(space.generator.num_ws)], 1)
    during = affine_outputs(space, lambda: space.render(ws))
    styles = space.styles(ws)
    assert list(styles) == list(during)
    for name in during:
        assert torch.equal(styles[name], during[name])


def test_deviations_are_of_many_random_faces(space: StyleSpace) -> None:
    generator = space.generator
    z = torch.from_numpy(np.random.RandomState(1).randn(64, SIZE.z_dim)).float()
    with torch.no_grad():
        w = generator.mapping(z)[:, 0]
        expected = torch.stack([generator.synthesis.b8.conv0.affine(row[None])[0] for row in w]).numpy().std(0, ddof=1)
    measured = space.deviations(count=64, seed=1)["synthesis.b8.conv0"]
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-4)
    assert torch.equal(measured, StyleSpace(generator, "again").deviations(count=64, seed=1)["synthesis.b8.conv0"])
    with pytest.raises(InputError, match="2 or more latents"):
        space.deviations(count=1)


def test_latents_are_a_function_of_their_seed(space: StyleSpace) -> None:
    together = space.latents([11, 4, 11])
    assert torch.equal(together[0], together[2])
    torch.testing.assert_close(together[1:2], space.latents([4]), rtol=0, atol=1e-6)
    assert not torch.allclose(together[0], together[1])
    # The seeds of the official scripts.
    z = torch.from_numpy(np.random.RandomState(4).randn(1, SIZE.z_dim)).float()
    torch.testing.assert_close(space.latents([4], truncation_psi=1), space.generator.mapping(z), rtol=0, atol=1e-6)
    mean = space.latents([4], truncation_psi=0)
    assert torch.equal(mean[0, 0], space.generator.mapping.w_avg)
    for seeds in ([], [-1], [2**32]):
        with pytest.raises(InputError, match="seeds from 0"):
            space.latents(seeds)


def test_an_image_does_not_depend_on_its_batch(space: StyleSpace) -> None:
    ws, moves = space.latents(range(5)), {space.channel(3, 2): 3.0}
    alone = torch.cat([space.render(row[None], moves) for row in ws])
    torch.testing.assert_close(space.render(ws, moves), alone, rtol=0, atol=1e-5)


def test_the_fingerprint_tells_weights_apart(space: StyleSpace) -> None:
    other = new_generator()
    assert StyleSpace(other, "same weights").fingerprint == space.fingerprint
    with torch.no_grad():
        other.synthesis.b4.conv1.noise_const[0, 0] += 1e-3
    assert StyleSpace(other, "tiny").fingerprint != space.fingerprint


def test_a_network_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="z_dim is missing"):
        StyleSpace(nn.Linear(2, 2), "linear")
    no_styles = new_generator()
    no_styles.synthesis = Flat()
    with pytest.raises(InputError, match="style layers named affine, but it has none"):
        StyleSpace(no_styles, "flat")
    other_input = new_generator()
    other_input.synthesis.b4.conv1.affine = nn.Sequential(Inner(), nn.Linear(16, 16))
    with pytest.raises(InputError, match=r"b4\.conv1\.affine\.0 of nested"):
        StyleSpace(other_input, "nested")
    with_classes = new_generator()
    with_classes.c_dim = 10
    with pytest.raises(InputError, match="10 classes"):
        StyleSpace(with_classes, "classes")


class Flat(nn.Module):
    def forward(self, ws: Tensor, noise_mode: str) -> Tensor:
        return ws[:, :1, :1, None].expand(-1, 3, 2, 2)


class Inner(nn.Module):
    """Has an `affine` that takes something else than w."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Linear(16, 16)

    def forward(self, w: Tensor) -> Tensor:
        return self.affine(w.square())


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
    assert manifest["channels"] == [["synthesis.b8.conv1", 5, 1.0], ["synthesis.b4.conv1", 2, -0.5]]
    assert len(manifest["files"]) == 6


def test_images_are_rendered_once_and_repaired(
    space: StyleSpace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rendered: list[tuple[int, int]] = []

    def render(**changes: Any) -> dict[Path, tuple[int, bytes]]:
        rendered.clear()
        twins = new_pairs(space, **changes).twins(tmp_path, lambda done, total: rendered.append((done, total)))
        return {path: (path.stat().st_ino, path.read_bytes()) for twin in twins for _, path in twin.images}

    first = render()
    assert rendered == [(3, 6), (6, 6)]
    assert render() == first
    assert rendered == []
    damaged, gone = list(first)[1], list(first)[5]
    damaged.write_bytes(b"half a file")
    assert {path: content for path, (_, content) in render().items()} == {p: c for p, (_, c) in first.items()}
    assert rendered == [(3, 3)]
    assert f"{damaged} is damaged" in caplog.text
    gone.unlink()
    leftover = gone.with_name(".000009-abc.png")
    leftover.touch()
    more = render(count=3)
    assert rendered == [(3, 6), (6, 6)]
    assert {path: more[path][1] for path in first} == {path: content for path, (_, content) in first.items()}
    assert not leftover.exists()
    (damaged.parents[1] / "manifest.json").write_text("{")
    assert {path: content for path, (_, content) in render().items()} == {p: c for p, (_, c) in first.items()}
    assert rendered == [(3, 6), (6, 6)]


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
        ({"strengths": {-1: -3, 0: 0, 1: 3}}, "one at 0"),
        ({"strengths": {0.0: 2, 1: 3}}, "one at 0"),
        ({"strengths": {1: 3}}, "2 or more slider scales"),
        ({"strengths": {-1: 3, 1: 3}}, "each with its own strength"),
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
    assert pairs.strengths == {-2: -6, -1: -3, 1: 3, 2: 6}


def test_the_config_of_a_pickle_trusts_nothing_by_itself() -> None:
    config = composed_pairs(
        "generator@pairs.generator=stylegan",
        "pairs.generator.pickle=a.pkl",
        "pairs.generator.code=stylegan3",
        "pairs.channels.layers={4:[847]}",
    )
    assert config["generator"]["trust_pickle"] is False
    assert config["channels"]["layers"] == {4: [847]}
