"""Messages for people, translated where they are printed: written in English, shown in the terminal's language."""

from thinktune.translation.language import LANGUAGE_VARIABLE, Language, find_language
from thinktune.translation.messages import translate

__all__ = ["LANGUAGE_VARIABLE", "Language", "find_language", "translate"]
