"""Data of the task ``preference``: a user's history and a candidate as a prompt, with what the user thought of it."""

from raydistill.data.preference.batches import TextBatch, TextExamples, text_batches
from raydistill.data.preference.candidates import Candidates
from raydistill.data.preference.dataset import PreferenceData
from raydistill.data.preference.labels import Labels
from raydistill.data.preference.preparation import prepare_preference
from raydistill.data.preference.prompts import Prompt
from raydistill.data.preference.rows import Examples
from raydistill.data.preference.statistics import render_preference_statistics

__all__ = [
    "Candidates",
    "Examples",
    "Labels",
    "PreferenceData",
    "Prompt",
    "TextBatch",
    "TextExamples",
    "prepare_preference",
    "render_preference_statistics",
    "text_batches",
]
