r"""Pre-tokenizers of llama.cpp: found for a tokenizer by measurement, never by the name of its class.

llama.cpp knows a byte-level tokenizer's way of cutting a text only by a name, and cuts in another way in silence where
the name is wrong. So each of its ways is built here with the `tokenizers` library, and a tokenizer is given the name
of the one that cuts every probe as it does: texts of many scripts, and all runs of three kinds of characters.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

_LETTERS_OR_MARKED = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Pretokenizer:
    """One of llama.cpp's ways to cut a text: its name, the patterns that cut one after the other, and its merging.

    `ignores_merges`: a piece that is a token is taken as it is.
    """

    name: str
    patterns: tuple[str, ...]
    ignores_merges: bool = False

    def build(self) -> Any:
        """Return it as a pre-tokenizer of the `tokenizers` library."""
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# What llm_tokenizer_bpe (src/llama-vocab.cpp) does under each name, of those that cut alike the commonest one.
PRETOKENIZERS = (
    Pretokenizer("qwen2", (f"{_CONTRACTIONS}|{_LETTERS_OR_MARKED}|\\p{{N}}|{_SIGNS}|{_BLANKS}",)),
    Pretokenizer("llama-bpe", (f"{_CONTRACTIONS}|{_LETTERS_OR_MARKED}|\\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}",), True),
    Pretokenizer("dbrx", (f"{_CONTRACTIONS}|{_LETTERS_OR_MARKED}|\\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}",)),
    Pretokenizer("smollm", (r"\p{N}", _GPT2)),
    Pretokenizer("gpt-2", (_GPT2,)),
    Pretokenizer(
        "qwen35",
        (
            f"{_CONTRACTIONS}|[^\\r\\n\\p{{L}}\\p{{N}}]?[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
            f"| ?[^\\s\\p{{L}}\\p{{M}}\\p{{N}}]+[\\r\\n]*|{_BLANKS}",
        ),
    ),
    Pretokenizer("deepseek-v3", (r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK)),
    Pretokenizer("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    Pretokenizer(
        "seed-coder",
        (f"{_CONTRACTIONS}|{_LETTERS_OR_MARKED}|\\p{{N}}{{1}}| ?[^\\s\\p{{L}}\\p{{N}}\\r\\n]+|{_BLANKS}",),
    ),
    Pretokenizer("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
)

# One character of each kind that a pattern may tell apart.
_KINDS = ("a", "é", "山", "ね", "\u0301", "7", "٣", "½", " ", "\t", "\u00a0", "\n", "\r", "'", ".", "/", "+")

PROBES = (
    "The heart's 4 chambers pump 7,000 litres a day; that's 2.5 million in 365 days.",
    "I'VE told you: WE'LL go, they'Re late, it'S his, don'T, i'd, I'M, 's 't 'll",
    "普通感冒由病毒引起，抗生素只对细菌有效。多喝水，注意休息！2024年12月31日",
    "かぜは抗生物質では治りません。カタカナ、ひらがな、漢字。 한국어 문장입니다.",
    "Нужны ли антибиотики при простуде? Ελληνικά, العربية ١٢٣, हिन्दी में, ไทย, ខ្មែរ",
    "1 12 123 1234 12345 123456 1234567 1.5 ½ ² Ⅳ ３３３ x2 3x",
    "<think>\nStep 1:\n\n  - list\n\n\n</think>\n\nAnswer.\r\n\r\nEnd\r",
    "   leading,  double   triple    four     spaces \t tab\t\ttabs \n \n\n mixed \n\t end   ",
    'camelCase snake_case HTTPServer --flag=value $HOME/.config (a+b)*c != d ~~ || `code` "quoted" ...!!!???',
    "if x:\n    return {'a': [1, 2.0]}  # comment\n\nprint(f\"{x!r}\")\n",
    "😀😀 👩‍⚕️ ❤️ 🇨🇳 … — – “quotes” «guillemets» €5 £6 ¥7",
    "naïve café résumé Ångström Åse über straße ĲSSELMEER ﬁne",
    "$x^2 + \\frac{1}{2} \\leq \\sqrt{y}$ \\boxed{42}",
)
DECOMPOSED = "cafe\u0301 A\u030angstro\u0308m 가"  # which NFC composes


@cache
def probe_texts() -> tuple[str, ...]:
    """Return the probes: texts of many scripts, and every run of three kinds of characters."""
    return (*PROBES, *("".join(run) for run in itertools.product(_KINDS, repeat=3)))


def find_pretokenizer(backend: Tokenizer) -> tuple[Pretokenizer | None, str]:
    """Find the way of llama.cpp that cuts every probe as a tokenizer does.

    Returns None, and the shortest piece of text that the closest way cuts otherwise, where there is none. A way that
    merges otherwise counts only if no other does.
    """
    own = backend.pre_tokenizer
    wanted = [_pieces(own, text) for text in probe_texts()]
    ignores_merges = bool(json.loads(backend.to_str())["model"].get("ignore_merges"))
    first_difference: dict[str, int] = {}
    found: list[Pretokenizer] = []
    for way in PRETOKENIZERS:
        cut = way.build()
        place = next((at for at, text in enumerate(probe_texts()) if _pieces(cut, text) != wanted[at]), None)
        if place is None:
            found.append(way)
        else:
            first_difference[way.name] = place
    if found:
        return next((way for way in found if way.ignores_merges == ignores_merges), found[0]), ""
    closest = max(first_difference, key=first_difference.__getitem__)
    return None, f"{closest}, at {probe_texts()[first_difference[closest]]!r}"


def _pieces(pre_tokenizer: Any, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]


def as_llama_cpp_reads(backend: Tokenizer, way: Pretokenizer) -> Tokenizer:
    """Return a tokenizer as llama.cpp will read it: nothing normalized, added tokens found as they are spelled."""
    tree = json.loads(backend.to_str())
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    tree["added_tokens"] = [token | plain for token in tree["added_tokens"]]
    tree["model"]["ignore_merges"] = way.ignores_merges
    tree |= {"normalizer": None, "post_processor": None, "pre_tokenizer": None}
    read = Tokenizer.from_str(json.dumps(tree))
    read.pre_tokenizer = way.build()
    return read


def joined_tokens(texts: Sequence[str], count: int, seed: int = 0) -> Iterator[str]:
    """Yield texts of six of a vocabulary's tokens each: they bring merges that no sentence brings."""
    import random

    chosen = random.Random(seed)
    for _ in range(count):
        yield "".join(chosen.choices(texts, k=6))
