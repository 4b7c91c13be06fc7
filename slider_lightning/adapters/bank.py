"""K sliders on one frozen UNet, run under a matrix of scales or folded into its weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from slider_lightning.adapters.base import SliderBase, Stack
from slider_lightning.adapters.plan import Layout, ScalePlan, Term
from slider_lightning.errors import InputError


class SliderBank(nn.Module):
    """Sliders hung on a frozen UNet by forward hooks: its modules' names and state dict stay what they were.

    The bank's parameters are the sliders' and nothing else. Forwards outside `scales` are the bare UNet's.
    Kinds, ranks and layer sets may differ between sliders: on a layer the active ones of a kind run as one stack,
    low-rank ones as one low-rank product. Rows that use other sliders than their neighbours run in groups, each with
    its own sliders alone, so that K sliders on K groups of rows do the work of K runs.
    Weights are cast to the dtype of the layer's input, the masters stay fp32. The UNet's own gradient
    checkpointing works: a recomputed block sees the scales its first run saw. As a context manager the bank
    takes itself off the UNet at the end.

    Args:
        unet: the frozen UNet.
        sliders: the K sliders, in the order of the columns of a scale matrix.

    Raises:
        InputError: if a slider does not fit the UNet.
    """

    def __init__(self, unet: nn.Module, sliders: Sequence[SliderBase]) -> None:
        super().__init__()
        for slider in sliders:
            slider.check_fits(unet)
        self.sliders = nn.ModuleList(sliders)
        held = [frozenset(slider.layer_paths) for slider in sliders]
        # A plain dict: as registered modules the UNet's layers would enter the bank's parameters.
        adapted = frozenset().union(*held)
        self._layers = {path: layer for path, layer in unet.named_modules() if path in adapted}
        self._holders = {path: tuple(k for k, h in enumerate(held) if path in h) for path in self._layers}
        self._groups = frozenset(self._holders.values())
        self._checkpointing = [m for m in unet.modules() if hasattr(m, "gradient_checkpointing")]
        self._handles: list[RemovableHandle] = []
        self._plan: ScalePlan | None = None
        self._work = [slider.num_parameters() / len(slider.layer_paths) for slider in sliders]
        self._stacks: dict[tuple[SliderBase, ...], dict[str, tuple[Any, Stack]]] = {}
        self.attach()

    def attach(self) -> None:
        """Hang the sliders on the UNet; a new bank is attached."""
        if not self._handles:
            self._handles = [
                layer.register_forward_hook(partial(self._add_delta, path)) for path, layer in self._layers.items()
            ]

    def detach(self) -> None:
        """Take the sliders off the UNet, which then carries no trace of them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._stacks.clear()

    def weights_changed(self) -> None:
        """Drop what was stacked of the sliders' weights: fused optimizers change them without raising their version."""
        self._stacks.clear()

    def __enter__(self) -> "SliderBank":
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @contextmanager
    def scales(self, slider_scales: Float[Tensor, "batch sliders"] | Sequence[Sequence[float]]) -> Iterator[None]:
        """Run the forwards inside with row i of `slider_scales` on sample i.

        A column of zeros computes nothing, a matrix of zeros leaves the bare UNet. Rows of zeros among many others
        compute nothing either, where leaving them out saves at least a quarter of the work. That is decided here:
        the forwards inside never wait for the device.

        Args:
            slider_scales: (batch, K), one row per sample of every forward inside; finite, 0 is off.

        Raises:
            InputError: if there is not one finite column per slider, or a forward inside has another batch.
            RuntimeError: if the bank is detached.
        """
        if not self._handles and self._layers:
            raise RuntimeError("Expected a bank attached to its UNet, but it is detached; call attach().")
        scales = self._checked(slider_scales, "batch x sliders", dims=2)
        plan = self._plan_for(scales) if bool(scales.any()) else None
        if plan is not None:
            self._stacks = {sliders: kept for sliders, kept in self._stacks.items() if sliders in plan.stacks}
        with self._running(plan):
            yield

    @contextmanager
    def folded(self, row: Float[Tensor, " sliders"] | Sequence[float]) -> Iterator[None]:
        """Fold W = W0 + sum_i scale_i dW_i (eq. 5) into the UNet, and take it out again bit for bit.

        The sum is taken in fp32, as one product for all low-rank sliders of a layer, and rounded once to the weight's
        dtype. The originals are kept until the end, which costs the memory of the adapted layers; they come back on
        exceptions too.

        Args:
            row: (K,), the scales shared by every sample of the forwards inside.

        Raises:
            InputError: if there is not one finite scale per slider.
        """
        scales = self._checked(row, "sliders", dims=1).tolist()
        originals: dict[str, Tensor] = {}
        try:
            for path, layer in self._layers.items():
                active = [k for k in self._holders[path] if scales[k] != 0]
                if active:
                    originals[path] = _weight(layer).detach().clone()
                    self._fold_layer(path, {k: scales[k] for k in active})
            yield
        finally:
            with torch.no_grad():
                for path, original in originals.items():
                    _weight(self._layers[path]).copy_(original)

    @torch.no_grad()
    def _fold_layer(self, path: str, scales: dict[int, float]) -> None:
        weight, sliders = _weight(self._layers[path]), self._slider_list()
        folded = weight.float()
        for kind in dict.fromkeys(type(sliders[k]) for k in scales):
            columns = [k for k in scales if type(sliders[k]) is kind]
            folded = kind.add_to_weight(folded, [sliders[k] for k in columns], path, [scales[k] for k in columns])
        weight.copy_(folded)

    def _slider_list(self) -> list[SliderBase]:
        return list(self.sliders)  # type: ignore[arg-type]

    def _plan_for(self, scales: Tensor) -> ScalePlan:
        device = _weight(next(iter(self._layers.values()))).device
        return ScalePlan(self._slider_list(), self._work, scales, self._groups, device)

    def _checked(self, scales: Tensor | Sequence[Any], shape: str, dims: int) -> Tensor:
        """Scales as a CPU fp32 tensor of `dims` dimensions with one finite value per slider in the last."""
        count = len(self.sliders)
        try:
            tensor = torch.as_tensor(scales).detach().to("cpu", torch.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"Expected slider scales as numbers ({shape}), but got {scales!r}.") from error
        if tensor.ndim != dims or tensor.shape[-1] != count:
            raise InputError(
                f"Expected slider scales ({shape}) for {count} sliders, but got shape {tuple(tensor.shape)}; "
                "give one column per slider."
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(f"Expected finite slider scales, but got {tensor.tolist()}.")
        return tensor

    def _add_delta(self, path: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        plan = self._plan
        if plan is None:
            return None
        x = args[0]
        if x.shape[0] != plan.batch:
            raise InputError(
                f"Expected one row of slider scales per sample, but the forward has {x.shape[0]} samples and "
                f"the scales {plan.batch} rows; repeat or cut the rows."
            )
        layout = plan.layouts[self._holders[path]]
        if not layout.groups:
            return None
        if len(layout.sizes) == 1:
            for delta in self._deltas(path, layer, layout.groups[0].terms, x):
                output = output + delta.to(output.dtype)
            return output
        return output + self._delta_of_groups(path, layer, layout, x, output)

    def _delta_of_groups(self, path: str, layer: nn.Module, layout: Layout, x: Tensor, like: Tensor) -> Tensor:
        """What the sliders add, each group of rows by itself; shaped as the layer's output `like`, zero elsewhere.

        Rows are cut and put together by `split` and `cat` alone: the gradient of each is one of the other, whereas
        that of a slice or an index fills a whole batch for every group.
        """
        runs = x.split(layout.sizes)
        deltas: dict[int, Tensor] = {}
        for group in layout.groups:
            rows = runs[group.runs[0]] if len(group.runs) == 1 else torch.cat([runs[i] for i in group.runs])
            first, *others = self._deltas(path, layer, group.terms, rows)
            delta = sum(others, first).to(like.dtype).split([layout.sizes[i] for i in group.runs])
            deltas.update(zip(group.runs, delta, strict=True))
        for i in set(range(len(runs))) - set(deltas):
            deltas[i] = like.new_zeros(len(runs[i]), *like.shape[1:])
        return torch.cat([deltas[i] for i in range(len(runs))])

    def _deltas(self, path: str, layer: nn.Module, terms: Sequence[Term], x: Tensor) -> list[Tensor]:
        return [self._stacked(path, term, x).delta(layer, x, term.strengths.to(x.device)) for term in terms]

    def _stacked(self, path: str, term: Term, x: Tensor) -> Stack:
        """The stacked weights of a term; without gradients they are kept until a master weight changes."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return term.kind.stack(term.sliders, path, x)
        masters = [parameter for slider in term.sliders for parameter in slider.adapter(path).parameters()]
        state = (x.dtype, x.device, [_state(parameter) for parameter in masters])
        of_layers = self._stacks.setdefault(term.sliders, {})
        kept = of_layers.get(path)
        if kept is None or kept[0] != state:
            kept = of_layers[path] = (state, term.kind.stack(term.sliders, path, x))
        return kept[1]

    @contextmanager
    def _running(self, plan: ScalePlan | None) -> Iterator[None]:
        """Set the plan for the forwards inside, and tie the blocks they checkpoint to it.

        A checkpointed block runs again in the backward pass, when this context is left, and must then see the
        same plan.
        """
        outer_plan = self._plan
        blocks: list[Any] = [block for block in self._checkpointing if block.gradient_checkpointing]
        originals = [block._gradient_checkpointing_func for block in blocks]
        self._plan = plan
        for block, original in zip(blocks, originals, strict=True):
            block._gradient_checkpointing_func = partial(self._checkpoint, plan, original)
        try:
            yield
        finally:
            self._plan = outer_plan
            for block, original in zip(blocks, originals, strict=True):
                block._gradient_checkpointing_func = original

    def _checkpoint(
        self, plan: ScalePlan | None, checkpoint: Callable[..., Any], block: Callable[..., Any], *args: Any
    ) -> Any:
        def block_under_plan(*inputs: Any) -> Any:
            with self._running(plan):
                return block(*inputs)

        return checkpoint(block_under_plan, *args)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _state(parameter: Tensor) -> tuple[int, int]:
    """Changes whenever the parameter's values do: by an in-place write, or by new storage."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version
