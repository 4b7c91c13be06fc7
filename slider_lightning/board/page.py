"""The page: Gradio's controls around a desk. Imported late, since Gradio is an optional extra."""

from __future__ import annotations

import html
import random
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from slider_lightning.backbone import SamplerConfig
from slider_lightning.board.desk import Desk, finite
from slider_lightning.board.doorway import Visitors
from slider_lightning.board.knobs import KnobRange
from slider_lightning.board.remembering import Recent
from slider_lightning.board.rendering import Outdated, Picture
from slider_lightning.board.style import knob_marks, useful_text
from slider_lightning.errors import InputError

# Seconds: how often files of images are looked through, and how old they become.
_DELETE_FILES = (600, 3600)
_SEEDS = 2**31
_BROWSERS = 256


class Page:
    """The page of a desk; `blocks` is what Gradio serves.

    A change of any control goes three ways in turn: it is noted as the newest of its browser, shown in a few steps,
    and then in full unless something newer was noted. A full image that is being made when something newer is noted
    is given up. The browser sends the last change alone of those that came while one was under way.

    Args:
        desk: what stands behind it.
        folder: where the files that can be saved are written.
        visitors: who still waits for answers.
    """

    def __init__(self, desk: Desk, folder: Path, visitors: Visitors) -> None:
        self._desk = desk
        self._folder = folder
        self._visitors = visitors
        self._newest: Recent[str | None, Picture] = Recent(_BROWSERS)
        with gr.Blocks(title="Slider board", analytics_enabled=False, delete_cache=_DELETE_FILES) as self.blocks:
            self._lay_out()
            self._connect()
        self.blocks.queue(api_open=False, default_concurrency_limit=1)

    def _lay_out(self) -> None:
        with gr.Row(elem_id="board"):
            with gr.Column(scale=6, min_width=300, elem_id="pictures"):
                with gr.Row(elem_id="pair"):
                    self._base = _image("Sliders off", "base")
                    self._image = _image("Sliders on", "edited")
                self._note = gr.Markdown(elem_id="note")
            with gr.Column(scale=5, min_width=300, elem_id="controls"):
                self._lay_out_knobs()
                self._lay_out_noise()
                self._lay_out_sampler()
        with gr.Row(elem_id="takeaway"):
            self._command = gr.Textbox(
                label="The same image on the command line",
                lines=2,
                max_lines=6,
                interactive=False,
                buttons=["copy"],
                scale=5,
                min_width=300,
                elem_id="command",
            )
            self._save = gr.DownloadButton("Save image", scale=1, min_width=140, elem_id="save")

    def _lay_out_knobs(self) -> None:
        ranges = [knob.range(False) for knob in self._desk.knobs]
        self._sliders = [
            _slider(knob.name, ends, at) for at, (knob, ends) in enumerate(zip(self._desk.knobs, ranges, strict=True))
        ]
        self._marks = gr.HTML(knob_marks(ranges), elem_id="marks")
        self._calibrated = gr.Checkbox(
            False,
            label=f"Units of effect: {self._desk.unit}",
            visible=self._desk.unit is not None,
            elem_id="calibrated",
        )

    def _lay_out_noise(self) -> None:
        config = self._desk.config
        self._prompt = gr.Textbox(config.prompt, label="Prompt", lines=1, max_lines=4, elem_id="prompt")
        with gr.Row(elem_id="noise"):
            self._seed = gr.Number(
                config.seed, label="Seed", precision=0, minimum=0, min_width=90, scale=2, elem_id="seed"
            )
            self._previous, self._next, self._dice = (
                gr.Button(text, size="md", min_width=40, scale=1, elem_id=name)
                for text, name in (("◀", "previous"), ("▶", "next"), ("Random", "dice"))
            )

    def _lay_out_sampler(self) -> None:
        sampler = self._desk.sampler
        with gr.Accordion("Sampling", open=False, elem_id="sampling"):
            self._steps = gr.Slider(
                1, max(100, sampler.num_inference_steps), sampler.num_inference_steps, step=1, label="Steps"
            )
            self._guidance = gr.Slider(
                0, max(15.0, sampler.guidance_scale), sampler.guidance_scale, step=0.1, label="Guidance scale"
            )
            self._start = gr.Slider(
                0, 1000, sampler.start_timestep, step=1, label="Start timestep", info="sliders act from here on down"
            )

    def _connect(self) -> None:
        controls = [self._prompt, self._seed, self._steps, self._guidance, self._start, self._calibrated]
        inputs = [*self._sliders, *controls]
        queue: dict[str, Any] = {"concurrency_id": "board", "concurrency_limit": 1}
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        full = [self._image, self._base, self._command, self._save, self._note]
        turned: list[Any] = [*self._sliders, self._seed, self._steps, self._guidance, self._start]
        moved = [control.change for control in turned]
        noted = gr.on(
            [*moved, self._prompt.submit, self._prompt.blur],
            self._touch,
            inputs,
            None,
            queue=False,
            api_visibility="private",
            **quiet,
        )
        previewed = noted.success(
            self._preview, inputs, [self._image, self._command, self._note], api_name="preview", **queue, **quiet
        )
        previewed.success(self._render, inputs, full, api_name="render", **queue, **quiet)
        self.blocks.load(self._render, inputs, full, api_visibility="private", **queue, show_progress="hidden")
        aside: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self._dice.click(lambda: random.randrange(_SEEDS), None, self._seed, **aside)
        self._next.click(lambda seed: (seed or 0) + 1, self._seed, self._seed, **aside)
        self._previous.click(lambda seed: max(0, (seed or 0) - 1), self._seed, self._seed, **aside)
        self._calibrated.input(self._turn_units, inputs, [*self._sliders, self._marks], **aside)

    def _touch(self, request: gr.Request, *values: Any) -> None:
        """Note what a browser asks for last."""
        self._newest.put(request.session_hash, self._picture(values))

    def _gone(self, request: gr.Request) -> bool:
        """Whether nobody waits for the answer to a request."""
        return self._visitors.gone(request.session_hash, request.request.scope)

    def _preview(self, request: gr.Request, *values: Any) -> Any:
        """The image in a few steps."""
        try:
            shown = self._desk.preview(self._picture(values), lambda: self._gone(request))
        except Outdated:
            return (gr.skip(),) * 3
        except InputError as error:
            raise _told(error) from error
        return shown.image, shown.command, shown.note

    def _render(self, request: gr.Request, *values: Any) -> Any:
        """The image in full, what it is without sliders, its command and its file."""
        picture = self._picture(values)

        def outdated() -> bool:
            return self._gone(request) or self._newest.get(request.session_hash) not in (None, picture)

        if outdated():
            return (gr.skip(),) * 5
        try:
            base = self._desk.show(picture.base, outdated)
            shown = self._desk.show(picture, outdated)
            path = self._save_alone(picture)
        except Outdated:
            return (gr.skip(),) * 5
        except InputError as error:
            raise _told(error) from error
        return str(path), base.image, shown.command, str(path), shown.note

    def _save_alone(self, picture: Picture) -> Path:
        """The picture's file. Gradio copies what is shown, so files from before can go."""
        for before in self._folder.glob("*.png"):
            before.unlink()
        return self._desk.save(picture, self._folder)

    def _turn_units(self, *values: Any) -> list[Any]:
        """The knobs in the other units, at the same scales."""
        *positions, calibrated = (*values[: len(self._sliders)], values[-1])
        ranges = [knob.range(calibrated) for knob in self._desk.knobs]
        for sentence in self._desk.unit_warnings(self._sampler(values)) if calibrated else ():
            gr.Warning(html.escape(sentence, quote=False))
        updates = [
            gr.Slider(
                minimum=ends.lowest,
                maximum=ends.highest,
                step=ends.step,
                value=knob.turned(position, calibrated),
                info=useful_text(ends),
            )
            for knob, ends, position in zip(self._desk.knobs, ranges, positions, strict=True)
        ]
        return [*updates, knob_marks(ranges)]

    def _picture(self, values: Sequence[Any]) -> Picture:
        count = len(self._sliders)
        prompt, seed, *_, calibrated = values[count:]
        try:
            return self._desk.picture(values[:count], calibrated, prompt, seed, self._sampler(values))
        except InputError as error:
            raise _told(error) from error

    def _sampler(self, values: Sequence[Any]) -> SamplerConfig:
        steps, guidance, start = values[len(self._sliders) + 2 : -1]
        return replace(
            self._desk.sampler,
            num_inference_steps=int(finite(steps, "num_inference_steps")),
            guidance_scale=round(finite(guidance, "guidance_scale"), 4),
            start_timestep=int(finite(start, "start_timestep")),
        )


def _told(error: InputError) -> gr.Error:
    """The message that the page shows; it is the user's, so the server's log needs no trace of it."""
    return gr.Error(html.escape(textwrap.shorten(str(error), 300), quote=False), print_exception=False)


def _image(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label,
        type="pil",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        min_width=120,
        elem_id=name,
        elem_classes="picture",
    )


def _slider(name: str, ends: KnobRange, number: int) -> gr.Slider:
    return gr.Slider(
        ends.lowest,
        ends.highest,
        0.0,
        step=ends.step,
        label=name,
        info=useful_text(ends),
        elem_id=f"knob-{number}",
        elem_classes="knob",
    )
