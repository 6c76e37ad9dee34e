"""Print the table of packages in docs/architecture.md, made from the packages: `python docs/architecture_page.py`."""

import ast
from pathlib import Path

import thinktune

ROOT = Path(thinktune.__file__).parent


def packages() -> dict[str, tuple[str, list[str]]]:
    """Return each package's sentence and its modules, by its name."""
    found: dict[str, tuple[str, list[str]]] = {}
    for door in sorted(ROOT.glob("*/__init__.py")):
        sentence = ast.get_docstring(ast.parse(door.read_text(encoding="utf-8"))) or ""
        inner = [path.parent.name for path in door.parent.glob("*/__init__.py")]
        modules = sorted([*inner, *(path.stem for path in door.parent.glob("*.py") if path != door)])
        found[door.parent.name] = sentence, modules
    return found


def table() -> str:
    """Return the table's rows."""
    rows = (f"| `{name}` | {text} | {', '.join(modules)} |" for name, (text, modules) in packages().items())
    return "\n".join(("| package | what it is | modules |", "|---|---|---|", *rows))


if __name__ == "__main__":
    print(table())
