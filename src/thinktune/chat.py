"""Talking to a model in the terminal: the reasoning dimmed and apart from the answer, both as they are written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from thinktune import checkpoint, recipe
from thinktune.data import Turn
from thinktune.engine import Completion, Engine, Sampling
from thinktune.model import load_model, pick_device, pick_precision
from thinktune.render import render_prompt
from thinktune.reply import Piece, gather
from thinktune.tokens import read_tokenizer

HELP = "/think turns reasoning on or off · /reset forgets the conversation · /quit leaves"


@dataclass(slots=True)
class Session:
    """A conversation: its turns so far, and whether the model shall reason."""

    system: str | None
    thinking: bool = True
    turns: list[Turn] = field(default_factory=list[Turn])

    def asked(self, question: str) -> list[Turn]:
        """The conversation with a new question at its end."""
        system = [Turn("system", self.system)] if self.system else []
        return [*system, *self.turns, Turn("user", question)]

    def answered(self, question: str, reply: Completion) -> None:
        """Remember a question and its reply; the template decides what later turns see of the reasoning."""
        self.turns += [Turn("user", question), Turn("assistant", reply.answer, reply.reasoning)]


def open_engine(folder: Path) -> tuple[Engine, Session, Sampling]:
    """The model of a run or of a model folder, ready to talk, with the run's own system prompt and budget."""
    source = checkpoint.model_folder(folder)
    device = pick_device()
    engine = Engine(load_model(source, device), read_tokenizer(source), pick_precision("auto", device))
    trained = recipe.load(folder / "recipe.yaml") if (folder / "recipe.yaml").is_file() else None
    chosen = engine.model.generation_config
    sampling = Sampling(
        trained.generate.max_new_tokens if trained else 2048,
        temperature=(chosen.temperature or 0.0) if chosen.do_sample else 0.0,
        top_p=chosen.top_p or 1.0,
        top_k=chosen.top_k or 0,
    )
    return engine, Session(trained.data.system if trained else None), sampling


def chat(folder: Path, console: Console, ask: Callable[[], str]) -> None:
    """Answer what `ask` returns until it raises EOFError or says /quit."""
    engine, session, sampling = open_engine(folder)
    console.print(f"{HELP}\n", style="dim", highlight=False)
    while True:
        try:
            question = ask().strip()
        except EOFError:
            return
        match question:
            case "":
                continue
            case "/quit":
                return
            case "/reset":
                session.turns.clear()
                console.print("forgotten", style="dim")
            case "/think":
                session.thinking = not session.thinking
                console.print(f"reasoning {'on' if session.thinking else 'off'}", style="dim")
            case _ if question.startswith("/"):
                console.print(
                    f"{question.split()[0]} is no command; {HELP}", style="yellow", highlight=False, markup=False
                )
            case _:
                session.answered(question, _answer(engine, session, sampling, question, console))


def _answer(engine: Engine, session: Session, sampling: Sampling, question: str, console: Console) -> Completion:
    """Print a reply as it comes; Ctrl-C stops it, and what was written so far counts as cut."""
    prompt = render_prompt(session.asked(question), engine.tokenizer, thinking=session.thinking)
    shown: str | None = None
    pieces: list[Piece] = []
    reply: Completion | None = None
    try:
        for piece in engine.stream(prompt, sampling):
            if isinstance(piece, Completion):
                reply = piece
                break
            if piece.place != shown:
                _turn_to(piece, shown, console)
                shown = piece.place
            pieces.append(piece)
            console.print(
                piece.text,
                end="",
                style="" if piece.place == "answer" else "dim",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    except KeyboardInterrupt:
        reasoning, answer = gather(pieces)
        reply = Completion(reasoning, answer, 0, "length", closed=bool(answer))
    assert reply is not None
    console.print("" if reply.finish == "end" else "\n[yellow]— cut here[/]")
    console.print()
    return reply


def _turn_to(piece: Piece, shown: str | None, console: Console) -> None:
    """The break between reasoning and answer; `moved` says that what stands above was reasoning without a tag."""
    if piece.place == "moved":
        console.print("\n(the text above was reasoning)", style="dim italic")
    elif shown is not None:
        console.print("\n")
