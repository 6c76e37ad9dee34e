"""Small inputs of the study, as they lie there: rows judged by habits, by handed context and by the other rows."""

import pytest
import yaml

from thinktune.config import loading
from thinktune.data.pipeline import prepare_with_faults

# The rows that are left, and what is told of the others and of them.
RIGHT = {
    "06-handed-context": (0, {"handed_context": {"dropped": 4}}),
    "07-handed-tools": (0, {"handed_context": {"dropped": 4}}),
    "17-same-question-other-answer": (4, {"conflict": {"kept": 1}}),
    "20-cut-text": (4, {"cut_text": {"kept": 2}}),
    "21-loop": (3, {"loop": {"dropped": 2}}),
    "22-reasoning-says-nothing": (0, {"no_reasoning": {"dropped": 4}}),
    "23-answer-is-question": (0, {"answer_is_question": {"dropped": 4}}),
    "24-one-question-for-all": (4, {"one_question": {"kept": 3}}),
    "28-letter-answers-beyond-E": (4, {}),
    "29-one-character-answers": (4, {}),
    "30-ends-in-colon-or-dash": (3, {"cut_text": {"kept": 1}}),
    "37-number-answers": (4, {"not_text": {"repaired": 4}}),
}
OTHERS = ("near_duplicate", "language_mix", "bare_number")


@pytest.mark.real
@pytest.mark.parametrize("name", RIGHT)
def test_an_input_of_the_study_is_judged_rightly(real, official_tokenizer, name):
    folder = real / "failing" / name
    tree = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    tree["data"]["name"] = str(folder / tree["data"]["name"])
    summary = prepare_with_faults(loading.validate_recipe(tree, "here"), official_tokenizer).summary
    told = {fault["fault"]: fault["actions"] for fault in summary["faults"] if fault["fault"] not in OTHERS}
    assert (summary["train_rows"], told) == RIGHT[name]
