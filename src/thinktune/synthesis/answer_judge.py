"""Judge of free text: whether a teacher's answer is no worse than the row's own, in both orders."""

from collections.abc import Callable, Sequence

from thinktune.eval.llm_judge import ORDERS, AnswerPair, Completer, judge_request, parse_judgement


def make_judge(completer: Completer) -> Callable[[str, str, Sequence[str]], list[bool | None]]:
    """Make a judge of a source of replies.

    It takes a question, the row's own answer and other answers, and says of each whether it is no worse: neither order
    prefers the row's own. None where a verdict did not come or could not be read.
    """

    def judge(question: str, own_answer: str, answers: Sequence[str]) -> list[bool | None]:
        pairs = [AnswerPair(question, "", own_answer, answer) for answer in answers]
        asked = [(index, order) for index in range(len(pairs)) for order in ORDERS]
        requests = [judge_request(pairs[index], order) for index, order in asked]
        winners: dict[tuple[int, str], str] = {}
        for number, reply in completer.complete(requests):
            winners[asked[number]] = parse_judgement(reply.answer, asked[number][1])[0]
        return [_no_worse([winners.get((index, order), "unread") for order in ORDERS]) for index in range(len(pairs))]

    return judge


def _no_worse(winners: Sequence[str]) -> bool | None:
    if "base" in winners:
        return False
    return None if "unread" in winners else True
