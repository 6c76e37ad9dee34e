"""Messages of the source: the templates that people may read, and the catalogue's files kept in step with them.

`python tests/support/messages.py` lists messages without a translation. `--sort` writes the files of
`src/thinktune/translation/zh` in the order of the source, without those that are gone; `--add FILE` first adds
translations from a JSON file of English and Chinese.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import thinktune
from thinktune.translation.catalogue import CATALOGUE_FOLDER, COMPOSED, read_catalogue

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.other_texts import OTHER_MODULES, OTHER_TEXTS

SOURCE = Path(thinktune.__file__).parent
MAX_ENTRIES = 450  # of a file
# Modules that have both languages, and whose texts reach the terminal as well: their entries are made from them.
BILINGUAL = ("report/diagnosis_text.py",)

# Two words side by side, or a word beside a place: what people read. Single words are in the file of composed texts.
WORDS = re.compile(r"[A-Za-z]{2,}[,;:.]? [a-z]{2,}|[a-z]{3,} \{\}|\{\} [a-z]{3,}|[a-z]{3,}: \{\}")
PATTERNS = re.compile(
    r"\\[bs]|\(\?[:<i]|\{%-|^\[bold |^thinktune [a-z][^;]*$"
)  # expressions, chat templates, styles, commands
# Calls whose texts nobody reads, or that bring their own Chinese; and errors of our own making.
UNREAD_CALLS = {
    "compile", "search", "match", "fullmatch", "sub", "split", "startswith", "endswith", "partition", "rpartition",
    "removeprefix", "removesuffix", "find", "index", "getLogger", "filterwarnings", "AssertionError", "TypeError",
    "NotImplementedError", "Markup", "TypeVar", "Literal", "getattr", "execute", "BilingualText", "both", "both_texts",
}  # fmt: skip


def module_files(source: Path = SOURCE) -> Iterator[tuple[str, Path]]:
    """Yield the modules whose messages are translated, by their path."""
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        if not any(name.startswith(other) for other in OTHER_MODULES):
            yield name, path


def template_of(node: ast.expr) -> str | None:
    """Return the template that a string expression makes, None if it makes none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr():
            return "".join(map(_piece, node.values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = template_of(left), template_of(right)
            return None if parts == (None, None) else "".join("{}" if part is None else part for part in parts)
        case _:
            return None


def _piece(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(conversion=114):  # !r
            return "{!r}"
        case _:
            return "{}"


def templates_of(path: Path) -> list[str]:
    """List the templates of a module's messages, in its order."""
    found: list[tuple[int, int, str]] = []
    _collect(ast.parse(path.read_text(encoding="utf-8")), found, verbs=path.name == "cli.py")
    return [template for _, _, template in sorted(found)]


def _collect(node: ast.AST, found: list[tuple[int, int, str]], *, verbs: bool) -> None:
    if isinstance(node, ast.Compare) or (isinstance(node, ast.Call) and _name(node) in UNREAD_CALLS):
        return
    if isinstance(node, ast.Subscript) and (_is_literal(node.value) or isinstance(node.slice, ast.Constant)):
        _collect(node.value, found, verbs=verbs)
        return
    if isinstance(node, ast.expr) and (template := template_of(node)) is not None:
        if WORDS.search(template) and not PATTERNS.search(template):
            found.append((node.lineno, node.col_offset, template.strip()))
        for part in _filled_in(node):
            _collect(part, found, verbs=verbs)
        return
    if isinstance(node, ast.ClassDef):
        found += ((line, 0, text) for line, text in _descriptions(node))
    docstring = _docstring(node)
    if docstring and verbs and isinstance(node, ast.FunctionDef) and _is_verb(node):
        found += ((node.lineno, 0, paragraph) for paragraph in paragraphs(ast.get_docstring(node) or ""))
    for child in ast.iter_child_nodes(node):
        if child is not docstring and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            _collect(child, found, verbs=verbs)


def _filled_in(node: ast.expr) -> Iterator[ast.expr]:
    """Yield what fills the places of a template."""
    match node:
        case ast.JoinedStr():
            yield from (each.value for each in node.values if isinstance(each, ast.FormattedValue))
        case ast.BinOp(left=left, right=right):
            for side in (left, right):
                if template_of(side) is None:
                    yield side
                else:
                    yield from _filled_in(side)
        case _:
            return


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _descriptions(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """Yield what stands below the fields of a recipe's section, which is their description."""
    if not any(isinstance(base, ast.Name) and base.id == "Section" for base in node.bases):
        return
    for field, below in pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield below.lineno, " ".join(str(below.value.value).split())


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "Literal"


def _is_verb(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Call) and _name(each) in ("command", "callback") for each in node.decorator_list)


def _docstring(node: ast.AST) -> ast.stmt | None:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return node.body[0] if isinstance(node, kinds) and ast.get_docstring(node) else None


def _name(call: ast.Call) -> str:
    named = call.func
    return named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else ""


def pairs_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the texts that a module has in both languages, as a template and its translation.

    A place of the Chinese one is that of the English one with the same expression, up to `en` and `zh`. A text whose
    places differ is left out: it needs an entry.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _name(node) == "BilingualText" and len(node.args) == 2:
            english, chinese = ([*map(_piece_with_source, _pieces(each))] for each in node.args)
            places = [source for _, source in english if source]
            if english and all(source in places for _, source in chinese if source):
                again = "".join(f"{{{n}!d}}" for n, source in enumerate(places) if places.index(source) < n)
                filled = "".join(f"{{{places.index(source)}}}" if source else text for text, source in chinese)
                template = "".join("{}" if source else text for text, source in english).strip()
                if any(letter.isalpha() for letter in template):  # a mark alone is no message
                    yield template, filled.strip() + again


def _pieces(node: ast.expr) -> Iterator[ast.expr | str]:
    match node:
        case ast.Constant(value=str(text)):
            for piece in re.split(r"(\{[a-z]+\})", text):
                yield ast.Name(piece[1:-1]) if piece.startswith("{") else piece
        case ast.JoinedStr():
            for each in node.values:
                yield str(each.value) if isinstance(each, ast.Constant) else each.value  # pyright: ignore
        case _:
            return


def _piece_with_source(piece: ast.expr | str) -> tuple[str, str]:
    return (piece, "") if isinstance(piece, str) else ("", re.sub(r"\.zh\b|_zh\b|\.en\b", "", ast.unparse(piece)))


@cache
def messages(source: Path = SOURCE) -> dict[str, str]:
    """Return each template once, with the module that has it first."""
    found = ((template, module) for module, path in module_files(source) for template in templates_of(path))
    made: dict[str, str] = {}
    for template, module in found:
        if template not in OTHER_TEXTS:
            made.setdefault(template, module)
    return made


def catalogue_files(translations: dict[str, str], source: Path = SOURCE) -> dict[str, dict[str, str]]:
    """Share translations among files: one for each package, several for one with many messages."""
    packages: dict[str, dict[str, str]] = {}
    for template, module in messages(source).items():
        if template in translations:
            package = module.split("/")[0] if "/" in module else "top"
            packages.setdefault(package, {})[template] = translations[template]
    for module in BILINGUAL:
        packages.setdefault("report", {}).update(pairs_of(source / module))
    files: dict[str, dict[str, str]] = {}
    for package, entries in packages.items():
        items = list(entries.items())
        for number, start in enumerate(range(0, len(items), MAX_ENTRIES), start=1):
            name = package if number == 1 else f"{package}-{number}"
            files[name] = dict(items[start : start + MAX_ENTRIES])
    return files


def missing(source: Path = SOURCE) -> dict[str, str]:
    """Return the templates without a translation, with their modules."""
    known = {english for entries in read_catalogue().values() for english in entries}
    return {template: module for template, module in messages(source).items() if template not in known}


def write_files(translations: dict[str, str]) -> None:
    """Write the catalogue's files, but the one of composed texts, which is written by hand."""
    for file in CATALOGUE_FOLDER.glob("*.json"):
        if file.stem != COMPOSED:
            file.unlink()
    for name, entries in catalogue_files(translations).items():
        text = json.dumps(entries, ensure_ascii=False, indent=1)
        (CATALOGUE_FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sort", action="store_true")
    parser.add_argument("--add", type=Path)
    options = parser.parse_args()
    known = {english: chinese for entries in read_catalogue().values() for english, chinese in entries.items()}
    if options.add:
        known |= json.loads(options.add.read_text(encoding="utf-8"))
    if options.sort or options.add:
        write_files(known)
    for template, module in missing().items():
        print(module, json.dumps(template, ensure_ascii=False), sep="\t")
