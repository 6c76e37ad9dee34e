"""The HTML pages of a run and of runs compared, and the card of its model."""

from thinktune.report.comparison_page import write_comparison
from thinktune.report.diagnosis_text import advice_sentence, diagnosis_line, final_step_phrase
from thinktune.report.model_card import render_model_card, write_final_card, write_model_card
from thinktune.report.run_page import write_run_page

__all__ = [
    "advice_sentence",
    "diagnosis_line",
    "final_step_phrase",
    "render_model_card",
    "write_comparison",
    "write_final_card",
    "write_model_card",
    "write_run_page",
]
