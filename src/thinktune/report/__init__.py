"""The HTML pages of a run and of runs compared."""

from thinktune.report.comparison_page import write_comparison
from thinktune.report.diagnosis_text import advice_sentence, diagnosis_line, final_note, final_step_phrase
from thinktune.report.run_page import write_run_page

__all__ = [
    "advice_sentence",
    "diagnosis_line",
    "final_note",
    "final_step_phrase",
    "write_comparison",
    "write_run_page",
]
