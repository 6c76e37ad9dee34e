"""The catalogue of messages: each has its Chinese one, with the same places, and none is there without a message."""

import json
import re
from collections import Counter

import pytest
from support.messages import (
    BILINGUAL,
    SOURCE,
    catalogue_files,
    messages,
    missing,
    pairs_of,
    templates_of,
)

from thinktune.translation.catalogue import CATALOGUE_FOLDER, COMPOSED, NUMBERED_PLACE, PLACE, read_catalogue

CHINESE = re.compile("[\u4e00-\u9fff]")
ENTRIES = [
    (name, english, chinese) for name, entries in read_catalogue().items() for english, chinese in entries.items()
]
# Texts of libraries that print in our name, and what a person answers to.
COMMAND_LINE = re.compile(
    "|".join(
        (
            "Usage|Error|Arguments|Options|required|default|env var|completion|Show this|Try '",
            "No such|Permission denied|directory|No space|File exists|Address already|Connection refused|Missing|Got unexpected|requires an argument|does not take|Invalid value|Value error|Input should|valid|range",
        )
    )
)


def test_every_message_has_a_translation():
    assert missing() == {}, "translate them: python tests/support/messages.py names them"


def test_no_translation_is_left_of_a_message_that_is_gone():
    known = {**messages(), **{english: "" for module in BILINGUAL for english, _ in pairs_of(SOURCE / module)}}
    assert [english for name, english, _ in ENTRIES if name != COMPOSED and english not in known] == []


def test_the_files_are_as_the_tool_writes_them():
    """In the order of the source, so that two hands that translate do not meet at one line."""
    translations = {english: chinese for name, english, chinese in ENTRIES if name != COMPOSED}
    wanted = {name: list(entries) for name, entries in catalogue_files(translations).items()}
    assert {name: list(entries) for name, entries in read_catalogue().items() if name != COMPOSED} == wanted
    for file in CATALOGUE_FOLDER.glob("*.json"):
        assert file.read_text(encoding="utf-8").count("\n") <= 500


def test_no_message_is_translated_twice():
    assert [english for english, count in Counter(english for _, english, _ in ENTRIES).items() if count > 1] == []


@pytest.mark.parametrize("name", sorted(read_catalogue()))
def test_a_translation_has_the_places_of_its_message(name: str):
    for english, chinese in read_catalogue()[name].items():
        places = {int(number) for number, _ in NUMBERED_PLACE.findall(chinese)}
        assert places == set(range(len(PLACE.findall(english)))), english
        assert not re.search(r"[，。；：？！（] |[A-Za-z0-9][,;] [\u4e00-\u9fff]", chinese), f"{english}: {chinese}"


def test_words_that_the_source_joins_are_in_the_source():
    """An entry written by hand is of words that some module, or the command line's library, has."""
    source = "\n".join(path.read_text(encoding="utf-8").casefold() for path in SOURCE.rglob("*.py"))
    for english in read_catalogue()[COMPOSED]:
        if not COMMAND_LINE.search(english):
            for word in re.findall(r"[a-z]+(?:-[a-z]+)*", english.casefold()):
                assert word in source, english


def test_a_template_is_read_from_the_source_as_it_is_printed(tmp_path):
    module = tmp_path / "one.py"
    module.write_text(
        '"""Say nothing."""\n'
        "def told(path, rows, why):\n"
        '    """Return it."""\n'
        '    raise UserError(f"{path}: holds {rows:,} rows of {why!r}" + (", which is many" if rows > 3 else ""))\n'
        'NAMES = Annotated[str, typer.Option("--name", help="Name of the run.")]\n'
        're.compile("not for people")\n'
        "class Part(Section):\n"
        "    size: int = 3\n"
        '    """How many rows\n    it has."""\n'
    )
    assert templates_of(module) == [
        "{}: holds {} rows of {!r}{}",
        ", which is many",
        "Name of the run.",
        "How many rows it has.",
    ]


def test_a_catalogue_is_plain_json():
    for file in CATALOGUE_FOLDER.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert json.dumps(json.loads(text), ensure_ascii=False, indent=1) + "\n" == text, file.name
