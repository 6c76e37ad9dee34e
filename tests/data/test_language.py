"""The language of rows: named where script or function words show it, and not named where they do not."""

import json
from pathlib import Path

import pytest
from support.runs import settings, small_tree_of

from thinktune.data import pipeline, prepare
from thinktune.data.faults.language import count_languages, main_language
from thinktune.tokenization import read_tokenizer

TEXTS = {
    "en": "The patient has had a fever for three days. Because antibiotics do not act on viruses, do not prescribe them.",
    "de": "Der Patient hat seit drei Tagen Fieber. Weil Antibiotika nicht auf Viren wirken, sollte man sie nicht geben.",
    "fr": "Le patient a de la fièvre depuis trois jours. Les antibiotiques n'agissent pas sur les virus : pas de prescription.",
    "es": "El paciente tiene fiebre desde hace tres días. Como los antibióticos no actúan sobre los virus, no se recetan.",
    "pt": "O paciente está com febre há três dias. Como os antibióticos não atuam sobre os vírus, não devem ser receitados.",
    "it": "Il paziente ha la febbre da tre giorni. Poiché gli antibiotici non agiscono sui virus, non si danno.",
    "nl": "De patiënt heeft al drie dagen koorts. Omdat antibiotica niet op virussen werken, schrijft men ze niet voor.",
    "ru": "У пациента третий день температура. Так как антибиотики не действуют на вирусы, их не назначают.",
    "bg": "Пациентът има температура от три дни. Антибиотиците не действат на вирусите и не трябва да се предписват.",
    "zh": "感冒需要吃抗生素吗？普通感冒由病毒引起，抗生素只对细菌有效，所以不需要。",
    "ja": "風邪に抗生物質は必要ですか。風邪はウイルスによるものなので、必要ありません。",
    "ko": "감기에 항생제가 필요합니까? 감기는 바이러스가 일으키므로 필요하지 않습니다.",
    "el": "Ο ασθενής έχει πυρετό εδώ και τρεις ημέρες. Τα αντιβιοτικά δεν δρουν στους ιούς.",
}
UNKNOWN = {
    "Danish": "Patienten har haft feber i tre dage. Da antibiotika ikke virker på virus, bør man ikke ordinere dem.",
    "Polish": "Pacjent ma gorączkę od trzech dni. Ponieważ antybiotyki nie działają na wirusy, nie należy ich przepisywać.",
    "Vietnamese": "Bệnh nhân bị sốt ba ngày nay. Vì kháng sinh không có tác dụng với vi rút nên không được kê đơn.",
    "Indonesian": "Pasien sudah demam selama tiga hari. Karena antibiotik tidak bekerja pada virus, obat itu tidak diberikan.",
    "formula": "Solve 2x + 3 = 7: 2x = 4, x = 2. Check: 2 * 2 + 3 = 7, q.e.d., print(x), return x, f(x) = 2x + 3",
    "too short": "The heart is red.",
    "nothing": "",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_language_is_named_by_its_code(language):
    assert main_language(TEXTS[language]) == language


@pytest.mark.parametrize("text", UNKNOWN)
def test_a_language_that_does_not_show_is_not_named(text):
    assert main_language(UNKNOWN[text]) is None


def test_texts_are_counted_the_commonest_first():
    assert count_languages([TEXTS["en"], *[TEXTS["zh"]] * 2, ""]) == {"zh": 2, "en": 1, "": 1}


def test_rows_are_sampled_evenly_so_that_no_file_is_overlooked(tmp_path: Path, start: Path, monkeypatch):
    monkeypatch.setattr(pipeline, "LANGUAGE_SAMPLE_ROWS", 20)
    tree = small_tree_of(tmp_path, start)
    languages = ["zh"] * 40 + ["en"] * 20
    rows = [
        {"question": f"{number}?", "think": f"{number}: {TEXTS[language]}", "answer": f"{number}. {TEXTS[language]}"}
        for number, language in enumerate(languages)
    ]
    Path(tree["data"]["name"]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    faults = dict.fromkeys(("near_duplicate", "reasoning_is_answer", "fragment"), "keep")
    data = {"max_tokens": 2000, "validation": 0, "faults": faults}
    counts = prepare(settings(tree, data=data), read_tokenizer(start)).summary["languages"]
    assert 15 <= sum(counts.values()) <= 20
    assert counts["zh"] == pytest.approx(2 * counts["en"], abs=2)
