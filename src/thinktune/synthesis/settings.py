"""Options of `thinktune think`, and the settings that replies of one folder share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.config import Recipe
from thinktune.errors import UserError, redact
from thinktune.files import read_json, write_json
from thinktune.inference import SamplingParams
from thinktune.run import RunFolder
from thinktune.run.thought_folder import ThoughtFolder
from thinktune.synthesis.ledger import Ledger, Price

TOP_P = 0.95  # what makers of reasoning models recommend with a temperature


@dataclass(frozen=True, slots=True)
class ThinkOptions:
    """What is asked, of whom, and what is kept.

    `teacher` and `judge` are URL or URL#MODEL, or for the teacher a run or a model folder; None is the recipe's base.
    `keep` is how many tries of a question are kept at most. `max_tokens` and `max_cost` (in the currency of `price`)
    bound all that was ever asked in the folder. `reply_tokens` None means `data.max_tokens`. `instruct` asks the
    teacher in words to think first. `hints` shows it the answer where no try was right. With `own_answers` the rows
    keep their answers, else they get the teacher's. `shorten` has reasoning rewritten that is longer than asked for,
    instead of asking for a new one. `reasoning_tokens` are the shortest and longest that are kept. With
    `wait` a teacher that is loaded here waits for its card.
    """

    teacher: str | None = None
    tries: int = 4
    keep: int = 1
    max_tokens: int | None = None
    price: Price | None = None
    max_cost: float | None = None
    temperature: float = 0.6
    seed: int = 0
    reply_tokens: int | None = None
    reasoning_tokens: tuple[int, int | None] = (1, None)
    instruct: bool = False
    hints: bool = False
    shorten: bool = False
    judge: str | None = None
    own_answers: bool = True
    folder: Path | None = None
    wait: bool = False

    def refuse_mistakes(self) -> None:
        """Raise UserError with every mistake."""
        least, most = self.reasoning_tokens
        wrong = [
            sentence
            for holds, sentence in (
                (self.tries >= 1, f"--tries: is {self.tries}; ask each question at least once"),
                (self.keep >= 1, f"--keep: is {self.keep}; keep at least one try of a question"),
                (
                    self.keep <= self.tries,
                    f"--keep: is {self.keep}, more than --tries {self.tries}; ask more often, or keep fewer",
                ),
                (
                    self.temperature > 0 or self.tries == 1,
                    f"--temperature: is 0, so all {self.tries} tries would be the same; write --tries 1, or a "
                    "temperature above 0",
                ),
                (
                    not self.shorten or most is not None,
                    "--shorten: set the token limit of reasoning, as in --length :800",
                ),
                (
                    self.max_cost is None or self.price is not None,
                    "--budget: is money, so give the price of tokens, as in --price 2/8CNY",
                ),
                (
                    most is None or least <= most,
                    f"--reasoning-tokens: is {least}:{most}; write the smaller number first",
                ),
            )
            if not holds
        ]
        if wrong:
            raise UserError(wrong)

    def sampling(self, recipe: Recipe, try_index: int) -> SamplingParams:
        """Return the sampling of a try: each has a seed of its own."""
        return SamplingParams(
            self.reply_tokens or recipe.data.max_tokens,
            temperature=self.temperature,
            top_p=TOP_P if self.temperature else 1.0,
            seed=self.seed + try_index,
        )

    def ledger(self) -> Ledger:
        """Make the ledger of the bounds."""
        return Ledger(self.max_tokens, self.price, self.max_cost)


def default_folder(recipe: Recipe, ending: str = "") -> Path:
    """Return the folder where none is named: in `thought`, beside the folder of the runs."""
    return recipe.runs_folder.parent / "thought" / f"{recipe.name}{ending}"


def keep_settings(folder: ThoughtFolder, options: ThinkOptions, recipe: Recipe, identity: str) -> None:
    """Write the settings that replies depend on; raises UserError where the folder's replies were made with others.

    Rows, tries and bounds may change: only what is new is asked.
    """
    settings: dict[str, Any] = {
        "teacher": redact(identity),
        "temperature": options.temperature,
        "seed": options.seed,
        "reply_tokens": options.reply_tokens or recipe.data.max_tokens,
        "instruct": options.instruct,
        "price": None if options.price is None else [options.price.prompt, options.price.reply, options.price.currency],
    }
    if folder.settings.is_file():
        try:
            before = read_json(folder.settings)
            changed = [
                f"{name} was {before.get(name)!r} and is {value!r}"
                for name, value in settings.items()
                if before.get(name) != value
            ]
        except (ValueError, AttributeError):
            changed = ["its request.json is damaged"]
        if changed:
            raise UserError(
                f"--to: {folder.path} holds replies that were made with other settings ({'; '.join(changed)}); "
                f"name another folder, as in --to {folder.path}-2, or use the previous settings"
            )
    elif folder.replies.is_file() or RunFolder(folder.path).recipe.is_file():
        raise UserError(f"--to: {folder.path} has other files; name another folder, as in --to {folder.path}-2")
    write_json(folder.settings, settings)
