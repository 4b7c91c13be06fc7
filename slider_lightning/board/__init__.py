"""A board of sliders in the browser: images change while a slider is dragged."""
