"""Style space: what a move changes, and by how much."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slider_lightning.data.style_space import StyleChannel, StyleLayer, StyleSpace
from slider_lightning.errors import InputError
from tests.small_generator import SIZE, new_generator


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
    expected[moved.layer][:, 5] -= 2.5 * space.deviations[moved.layer][5]
    assert list(styles) == [layer.name for layer in space.layers]
    for name, style in styles.items():
        torch.testing.assert_close(style, expected[name], rtol=0, atol=1e-6)
    assert not torch.equal(styles[moved.layer], plain[moved.layer])


def test_moves_of_one_layer_add_up(space: StyleSpace) -> None:
    ws = space.latents([4])
    moves = {space.channel(2, 1): 1.0, space.channel(2, 3): -2.0, space.channel(4, 0): 3.0}
    shifts = {name: torch.zeros_like(deviation) for name, deviation in space.deviations.items()}
    for channel, amount in moves.items():
        shifts[channel.layer][channel.channel] = amount * space.deviations[channel.layer][channel.channel]
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
    z = torch.from_numpy(np.random.RandomState(0).randn(256, SIZE.z_dim)).float()
    with torch.no_grad():
        w = generator.mapping(z)[:, 0]
        expected = torch.stack([generator.synthesis.b8.conv0.affine(row[None])[0] for row in w]).numpy().std(0, ddof=1)
    measured = space.deviations["synthesis.b8.conv0"]
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-4)
    assert torch.equal(measured, StyleSpace(generator, "again").deviations["synthesis.b8.conv0"])
    assert not measured.requires_grad


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
