"""Help and usage errors in Chinese: the command's own texts, translated, and wrapped by the width of characters."""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer
from rich.cells import cell_len

from thinktune.terminal import say_to_stderr
from thinktune.translation import LANGUAGE_VARIABLE, find_language, translate
from thinktune.wrapping import wrap_words

_MAX_FIRST_COLUMN = 32  # cells of an option's name and kind


def run_app(app: typer.Typer) -> None:
    """Run an app in the terminal's language, or that of `--lang`, which processes started from here have too."""
    for option, following in pairwise([*sys.argv[1:], ""]):
        name, sign, value = option.partition("=")
        if not option.startswith("-"):
            break  # the verb; what follows is its own
        if name == "--lang":
            os.environ[LANGUAGE_VARIABLE] = value if sign else following
            break
    if find_language() == "en":
        app()
    else:
        _run_in_chinese(app)


def _run_in_chinese(app: typer.Typer) -> None:
    """Run an app as it runs itself, with help and usage errors in Chinese; ends the program."""
    command: Any = typer.main.get_command(app)
    _translate_command(command)
    try:
        code = command(standalone_mode=False)
    except typer.Abort:
        raise SystemExit(1) from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # no error of the command line: Click's own classes have moved
            raise
        _show_usage_error(error)
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _translate_command(command: Any) -> None:
    """Translate a command's help and its parameters', and those of the commands below it."""
    paragraphs = [translate(" ".join(part.split())) for part in (command.help or "").split("\n\n")]
    command.help = "\n\n".join(paragraphs)
    command.short_help = paragraphs[0].partition("。")[0]
    command.context_class = _chinese_context(command.context_class)
    for parameter in command.params:
        parameter.help = translate(getattr(parameter, "help", None) or "")
    for name in getattr(command, "commands", ()):
        _translate_command(command.commands[name])


def _chinese_context(known: type[Any]) -> type[Any]:
    """Make a context class that formats help by `_formatter`; its library has no other place to say so."""
    return type(known.__name__, (known,), {"formatter_class": _formatter(known.formatter_class)})


def _formatter(known: type[Any]) -> type[Any]:
    class ChineseFormatter(known):
        """A help formatter whose headings are Chinese, and whose columns fit characters of two cells."""

        def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
            super().write_usage(prog, args, translate("Usage:") + " ")

        def write_heading(self, heading: str) -> None:
            self.write(f"{' ' * self.current_indent}{translate(heading)}：\n")

        def write_text(self, text: str) -> None:
            for part in text.split("\n\n"):
                for line in _wrap(translate(part), self.width - self.current_indent):
                    self.write(f"{' ' * self.current_indent}{line}\n")

        def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
            first = min(max((cell_len(left) for left, _ in rows), default=0), _MAX_FIRST_COLUMN) + col_spacing
            space = " " * self.current_indent
            for left, right in rows:
                lines = _wrap(_describe(right), max(20, self.width - self.current_indent - first))
                if cell_len(left) > first - col_spacing:
                    self.write(f"{space}{left}\n")
                else:
                    self.write(f"{space}{left}{' ' * (first - cell_len(left))}{lines.pop(0)}\n")
                for line in lines:
                    self.write(f"{space}{' ' * first}{line}\n")

    return ChineseFormatter


def _wrap(text: str, width: int) -> list[str]:
    return [line.lstrip() for line in wrap_words(text, width).split("\n")]


def _describe(text: str) -> str:
    """Translate what stands beside a name: its help, and in brackets its default and the like."""
    help_text, bracket, extra = text.rpartition("  [")
    if not bracket:
        return translate(text)
    facts = "；".join(translate(fact) for fact in extra.removesuffix("]").split("; "))
    return f"{translate(help_text)}  [{facts}]"


def _show_usage_error(error: Any) -> None:
    """Print how a command is used and what was wrong with this call."""
    context = getattr(error, "ctx", None)
    if context is not None:
        say_to_stderr(context.get_usage())
        if context.help_option_names:
            option = context.help_option_names[0]
            say_to_stderr(translate(f"Try '{context.command_path} {option}' for help.") + "\n")
    message = error.format_message()
    if message:
        say_to_stderr(f"{translate('Error:')} {translate(message)}")
