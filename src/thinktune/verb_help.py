"""What the help shows beside the options: the verbs in the order in which a user meets them, and examples of each."""

from functools import partial
from typing import Any

from typer.core import TyperGroup

VERB_GROUPS = {
    "First steps": ("demo", "studio"),
    "Prepare": ("init", "check", "think"),
    "Train": ("pilot", "train"),
    "Look at the result": ("eval", "report", "chat", "serve"),
    "Pass it on": ("average", "export", "push"),
}

# What an option takes, by a part of typer's word for it.
PLAIN_TYPES = {"path": "PATH", "str": "TEXT", "float": "NUMBER", "int": "N"}

# Lines that can be pasted; each fits into 60 columns.
EXAMPLES = {
    "": ("thinktune demo", "thinktune init rows.jsonl", "thinktune train --help"),
    "demo": ("thinktune demo", "thinktune demo ~/demo"),
    "studio": ("thinktune studio", "thinktune studio ~/experts"),
    "init": ("thinktune init rows.jsonl", "thinktune init rows.csv --card 4090 --yes"),
    "check": ("thinktune check rows.yaml", "thinktune check rows.yaml plan.card=4090 --price 2.5"),
    "think": (
        "thinktune think rows.yaml --teacher URL#MODEL",
        "thinktune think rows.yaml --teacher runs/rows --tries 8",
    ),
    "pilot": ("thinktune pilot rows.yaml --minutes 30", "thinktune pilot rows.yaml --rates 5e-6,1e-5,2e-5"),
    "train": ("thinktune train rows.yaml", "thinktune train rows.yaml train.epochs=2 name=rows-2"),
    "eval": ("thinktune eval runs/rows", "thinktune eval runs/rows --exam medical-zh"),
    "report": ("thinktune report runs/rows", "thinktune report runs/rows runs/rows-2"),
    "chat": ("thinktune chat runs/rows", "thinktune chat runs/rows/export/hf"),
    "serve": ("thinktune serve runs/rows", "thinktune serve runs/rows --port 8000"),
    "average": ("thinktune average runs/rows 0.7",),
    "export": ("thinktune export runs/rows hf", "thinktune export runs/rows gguf-q8_0 ollama"),
    "push": ("thinktune push runs/rows clinic/expert --hub modelscope",),
}


class VerbGroup(TyperGroup):
    """The program's verbs, listed in groups; the help of each ends with its examples."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb whose help has its examples below the options, or None."""
        verb: Any = super().get_command(ctx, cmd_name)
        if verb is not None:
            verb.format_epilog = partial(_write_examples, cmd_name)
            for parameter in verb.params:
                known = getattr(parameter, "display_type", None)  # which earlier releases of typer have not
                if known and not isinstance(known, partial):
                    parameter.display_type = partial(_plain_type, parameter, known)
        return verb

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs by group, each with the first sentence of its help."""
        verbs = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        widest = max(map(len, verbs))
        grouped = [name for group in VERB_GROUPS.values() for name in group]
        others = {"More": tuple(name for name in verbs if name not in grouped)}
        for title, names in (VERB_GROUPS | others).items():
            if lines := [(name.ljust(widest), _summary(verbs[name])) for name in names if name in verbs]:
                with formatter.section(title):
                    formatter.write_dl(lines)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write how to begin."""
        _write_examples("", ctx, formatter)


def _plain_type(parameter: Any, display_type: Any, context: Any) -> str:
    """Return what to write for a parameter, as in N or PATH: typer's word for it is one of code, as in <int range>.

    An argument's name says it already. Choices stay as they are.
    """
    if parameter.param_type_name == "argument":
        return ""
    shown = display_type(context)
    if "|" in shown:
        return shown
    return next((word for code, word in PLAIN_TYPES.items() if code in shown.lower()), shown)


def _summary(verb: Any) -> str:
    return verb.short_help or verb.help.partition(". ")[0].rstrip(".") + "."


def _write_examples(verb: str, _ctx: Any, formatter: Any) -> None:
    """Write lines that can be pasted: they are not wrapped."""
    if lines := EXAMPLES.get(verb):
        with formatter.section("Examples"):
            for line in lines:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
