"""Text of a choice as it is asked: the question, its options, and how to answer, in the language of the question."""

import re
from collections import Counter

from thinktune.data.faults.language import main_language
from thinktune.eval.task_options import Options

# How to answer, by language, and an example that the extraction of letters knows.
_INSTRUCTIONS = {
    "en": 'End with the letter of the right option, as in "Answer: A".',
    "zh": "请在回答的最后写出正确选项的字母，如“答案：A”。",
    "ja": "最後に正しい選択肢の記号を「答え：A」のように書いてください。",
    "ko": "마지막에 올바른 선택지의 기호를 “정답: A”와 같이 쓰세요.",
    "de": "Schreibe am Ende den Buchstaben der richtigen Antwort, wie in „Antwort: A“.",
    "fr": "Termine par la lettre de la bonne option, comme dans « Réponse : A ».",
    "es": "Termina con la letra de la opción correcta, como en «Respuesta: A».",
    "pt": "Termine com a letra da opção correta, como em “Resposta: A”.",
    "it": "Concludi con la lettera dell'opzione giusta, come in «Risposta: A».",
    "nl": "Eindig met de letter van het juiste antwoord, zoals in „Antwoord: A”.",
    "ru": "В конце напишите букву правильного варианта, например «Ответ: A».",
    "uk": "Наприкінці напишіть літеру правильного варіанта, наприклад «Відповідь: A».",
    "bg": "Накрая напишете буквата на верния вариант, например „Отговор: A“.",
    "el": "Στο τέλος γράψε το γράμμα της σωστής επιλογής, όπως «Απάντηση: A».",
    "he": "סיימו באות של האפשרות הנכונה, כמו „תשובה: A”.",
    "ar": "اكتب في النهاية حرف الخيار الصحيح، مثل «الإجابة: A».",
    "hi": "अंत में सही विकल्प का अक्षर लिखें, जैसे “उत्तर: A”।",
    "th": "ลงท้ายด้วยตัวอักษรของตัวเลือกที่ถูกต้อง เช่น “คำตอบ: A”",
}

# The same where several options may be right: without a word of it, a model gives one.
_SEVERAL_INSTRUCTIONS = {
    "en": 'One or several options may be right. End with the letters of all right options, as in "Answer: AC".',
    "zh": "正确选项可能有一个，也可能有多个。请在回答的最后写出所有正确选项的字母，如“答案：AC”。",
}

# Letters of a script, and the language of most questions in it; a Chinese character is as much text as three letters.
_SCRIPTS = {
    "zh": (re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"), 3),
    "ja": (re.compile("[\u3041-\u30fa\u31f0-\u31ff]"), 3),
    "ko": (re.compile("[\uac00-\ud7a3\u1100-\u11ff]"), 3),
    "ru": (re.compile("[\u0400-\u04ff]"), 1),
    "el": (re.compile("[\u0370-\u03ff\u1f00-\u1fff]"), 1),
    "he": (re.compile("[\u0590-\u05ff]"), 1),
    "ar": (re.compile("[\u0600-\u06ff\u0750-\u077f]"), 1),
    "hi": (re.compile("[\u0900-\u097f]"), 1),
    "th": (re.compile("[\u0e00-\u0e7f]"), 1),
    "en": (re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"), 1),
}
_MIN_KANA_SHARE = 0.1  # of kana and Chinese characters: Japanese
_MIN_CHINESE_SHARE = 0.2  # of all letters: names of drugs and formulas are Latin in Chinese questions, too
_SAYS_HOW = re.compile(
    r"\b(?:letters?|options?|choices?|choose|select|pick|boxed|alternatives?)\b|字母|选项|选出|选择|写在|作答|"
    r"記号|選択肢|選び|기호|고르|букв|вариант|buchstabe|lettre|letra|lettera|letter",
    re.IGNORECASE,
)


def instruction_language(text: str) -> str:
    """Return the language, ISO 639-1, in which a question is told how to answer; English where none shows."""
    weights = Counter({language: weight * len(each.findall(text)) for language, (each, weight) in _SCRIPTS.items()})
    total = weights.total()
    if weights["ja"] and weights["ja"] >= _MIN_KANA_SHARE * (weights["ja"] + weights["zh"]):
        weights["ja"] += weights.pop("zh", 0)
    if weights["zh"] > _MIN_CHINESE_SHARE * total:
        return "zh"
    language = weights.most_common(1)[0][0]
    if language not in ("en", "ru"):
        return language
    # Many languages share these two scripts; function words tell the longer texts apart.
    found = main_language(text)
    return found if found in _INSTRUCTIONS else language


def choice_prompt(question: str, options: Options, *, instructed: bool = False, several: bool = False) -> str:
    """Return a question as it is asked: with its options, unless it lists them, and how to answer.

    A question that lists its options, or has an instruction of its own (`instructed`), is not told twice how to answer,
    except where `several` options may be right.
    """
    told = not several and (options.listed or instructed) and _SAYS_HOW.search(_without_options(question, options))
    language = instruction_language(question + "".join(options.texts))
    instruction = _INSTRUCTIONS[language]
    if several:
        instruction = _SEVERAL_INSTRUCTIONS.get(language, _SEVERAL_INSTRUCTIONS["en"])
    ending = "" if told else f"\n\n{instruction}"
    if options.listed:
        return f"{question.rstrip()}{ending}" if ending else question
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(options.letters, options.texts, strict=True))
    return f"{question.rstrip()}\n{lines}{ending}"


def _without_options(question: str, options: Options) -> str:
    for text in options.texts if options.listed else ():
        question = question.replace(text, "", 1)
    return question
