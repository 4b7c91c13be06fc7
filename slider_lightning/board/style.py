"""How the board looks: system fonts, large pixels, and each knob's useful range marked on its track."""

from collections.abc import Sequence

from slider_lightning.board.knobs import KnobRange

FONT = ("system-ui", "sans-serif")
FONT_MONO = ("ui-monospace", "monospace")
# A track is filled between 0 and the thumb, over a band where the response is even. Narrow pages keep the pair in sight
# while the controls below it are turned.
CSS = """
.gradio-container { width: 100% !important; max-width: 1240px !important; margin: auto; }
#marks { display: none; }
.picture .image-container, .picture button:has(img), .picture .image-frame { width: 100%; height: auto; }
.picture img { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; image-rendering: IMAGE_RENDERING; }
.picture > label { position: static !important; border: none !important; background: none !important; }
#note { min-height: 1.6em; }
#note * { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
#noise { align-items: end; flex-wrap: nowrap; }
#noise button { height: var(--size-10); padding: 0 var(--size-1); font-size: var(--text-sm); }
#command textarea { font-family: var(--font-mono); font-size: var(--text-sm); }
.knob { --outside: var(--neutral-200); --useful: var(--primary-200); }
.dark .knob { --outside: var(--neutral-700); --useful: var(--primary-800); }
.knob input[type="range"] {
  --first: min(var(--zero), var(--range_progress));
  --last: max(var(--zero), var(--range_progress));
  --track: linear-gradient(to right, transparent var(--first), var(--slider-color) var(--first) var(--last),
    transparent var(--last)), var(--marks);
}
.knob input[type="range"]::-webkit-slider-runnable-track { background: var(--track) !important; }
.knob input[type="range"]::-moz-range-track { background: var(--track) !important; }
.knob input[type="range"]::-moz-range-progress { background: transparent !important; }
@media (max-width: 700px) {
  .gradio-container main { padding: var(--size-2) !important; }
  #pictures { display: contents; }
  #pair { position: sticky; top: 0; z-index: 5; flex-wrap: nowrap; background: var(--body-background-fill); }
}
"""


def style_sheet(image_side: int) -> str:
    """The page's style sheet; small images keep their pixels when they are enlarged.

    Args:
        image_side: pixels of the model's images.
    """
    return CSS.replace("IMAGE_RENDERING", "pixelated" if image_side <= 128 else "auto")


def knob_marks(ranges: Sequence[KnobRange]) -> str:
    """A style sheet that marks 0 and the useful part on each knob's track, knobs being `#knob-0`, `#knob-1`, ..."""
    return "<style>" + "".join(_mark(number, ends) for number, ends in enumerate(ranges)) + "</style>"


def useful_text(ends: KnobRange) -> str:
    """What stands beside a knob's name."""
    low, high = ends.useful
    return f"useful from {low:g} to {high:g}"


def _mark(number: int, ends: KnobRange) -> str:
    low, zero, high = (
        f"{100 * (end - ends.lowest) / (ends.highest - ends.lowest):.2f}%"
        for end in (ends.useful[0], 0, ends.useful[1])
    )
    band = f"var(--outside) {low}, var(--useful) {low} {high}, var(--outside) {high}"
    return f"#knob-{number} {{ --zero: {zero}; --marks: linear-gradient(to right, {band}); }}\n"
