"""Baselines that need no training: each edits a row of a grid by a scale, as an `evaluation.grids.Method`."""

from evaluation.baselines.composition import Composition
from evaluation.baselines.prompt_editing import PromptEditing
from evaluation.baselines.prompt_to_prompt import PromptToPrompt
from evaluation.baselines.prompts import edited_prompt

__all__ = ["Composition", "PromptEditing", "PromptToPrompt", "edited_prompt"]
