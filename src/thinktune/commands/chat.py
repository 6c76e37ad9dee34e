"""Chat in the terminal: reasoning dimmed, answer below it, both streamed."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console

from thinktune.checkpoint import model_warning
from thinktune.inference import Completion, Piece, Request
from thinktune.inference.engine import Engine
from thinktune.inference.replies import join_pieces
from thinktune.inference.session import open_engine
from thinktune.terminal import guard_console
from thinktune.translation import translate

HELP = "/think: reasoning on or off · /reset: new conversation · /quit: end"


def chat_in_terminal(folder: Path, console: Console, read_line: Callable[[], str]) -> None:
    """Answer each line that `read_line` returns, until it raises EOFError or returns /quit."""
    guard_console(console)
    engine, session, sampling = open_engine(
        folder, lambda line: console.print(translate(line), style="dim", highlight=False, markup=False, soft_wrap=True)
    )
    if warning := model_warning(folder):
        console.print(translate(warning), style="bold red", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{translate(HELP)}\n", style="dim", highlight=False)
    while True:
        try:
            question = read_line().strip()
        except EOFError:
            return
        match question:
            case "":
                continue
            case "/quit":
                return
            case "/reset":
                session.turns.clear()
                console.print(translate("conversation cleared"), style="dim")
            case "/think":
                session.thinking = not session.thinking
                console.print(translate("reasoning on" if session.thinking else "reasoning off"), style="dim")
            case _ if question.startswith("/"):
                refused = translate(f"{question.split()[0]} is not a command; {HELP}")
                console.print(refused, style="yellow", highlight=False, markup=False)
            case _:
                session.add_reply(question, _print_reply(engine, session.make_request(question, sampling), console))


def _print_reply(engine: Engine, request: Request, console: Console) -> Completion:
    """Print a reply as it is generated; Ctrl-C stops it, and what was printed so far counts as truncated."""
    shown: str | None = None
    pieces: list[Piece] = []
    reply: Completion | None = None
    try:
        with closing(engine.stream(request)) as stream:
            for piece in stream:
                if isinstance(piece, Completion):
                    reply = piece
                    break
                if piece.kind != shown:
                    _print_break(piece, shown, console)
                    shown = piece.kind
                pieces.append(piece)
                style = "" if piece.kind == "answer" else "dim"
                console.print(piece.text, end="", style=style, highlight=False, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        reasoning, answer = join_pieces(pieces)
        reply = Completion(reasoning, answer, 0, 0, "length", closed=bool(answer))
    assert reply is not None
    console.print("" if reply.finish == "end" else translate("\n[yellow]— cut off here[/]"))
    console.print()
    return reply


def _print_break(piece: Piece, shown: str | None, console: Console) -> None:
    """Print the break between reasoning and answer; `moved` means that the text above was reasoning without a tag."""
    if piece.kind == "moved":
        console.print(translate("\n(the text above was reasoning)"), style="dim italic")
    elif shown is not None:
        console.print("\n")
