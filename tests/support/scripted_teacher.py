"""A teacher on loopback that reasons about sums, and errs, stalls, repeats, leaks and lies as its script says."""

import re
from collections import Counter
from contextlib import contextmanager

from support.chat_server import DONE, HANG, part, refuse, reply, serving, usage

NOW = {"Retry-After": "0"}
PROMPT_TOKENS, REPLY_TOKENS = 30, 40


class ScriptedTeacher:
    """Script of a server: `behaviour` maps a word of the question to a list of moods, one for each time it is asked.

    After the last mood a question is answered well. Without an entry it is answered well at once.
    """

    def __init__(self, behaviour=(), counts=True, field="reasoning_content", pause_seconds=0.0):
        self.behaviour = {word: list(moods) for word, moods in dict(behaviour).items()}
        self.counts, self.field, self.pause_seconds = counts, field, pause_seconds
        self.asked = Counter()
        self.bodies = []
        self.billed_tokens = 0  # prompt and reply, as a provider would bill them, broken replies included

    def __call__(self, body):
        question = body["messages"][-1]["content"]
        self.bodies.append(body)
        word = next((word for word in self.behaviour if word in question), None)
        self.asked[word or question] += 1
        moods = self.behaviour.get(word, [])
        mood = moods.pop(0) if len(moods) > 1 else moods[0] if moods and moods[0] != "then well" else "well"
        return self.act(mood, question, body)

    def act(self, mood, question, body):  # noqa: C901 (each case is a mood)
        first, second = map(int, re.findall(r"\d+", question)[:2])
        right, number = first + second, self.asked.total()
        thought = f"Attempt {number}: I take {first} and add {second}, counting on from {first}, which gives {right}."
        match mood:
            case "errs":
                return refuse(500, **NOW)
            case "is busy":
                return refuse(429, **NOW)
            case "is closed for hours":
                return refuse(429, **{"Retry-After": "7200"})
            case "refuses":
                return refuse(400, "this content is not allowed")
            case "has no money":
                return refuse(402, "Insufficient Balance")
            case "stalls":
                self.billed_tokens += PROMPT_TOKENS + REPLY_TOKENS
                return reply(part(reasoning=thought, field=self.field), HANG)
            case "breaks off":
                self.billed_tokens += PROMPT_TOKENS + REPLY_TOKENS
                return reply(part(reasoning=thought, field=self.field))
            case "is cut":
                return self.write(thought, f"It is {right}", body, finish="length", tokens=body["max_tokens"])
            case "lies":
                return self.write(thought.replace(str(right), str(right + 1)), f"It is {right + 1}.", body)
            case "leaks":
                return self.write(
                    f"The provided answer is {right}, so I explain it. {thought}", f"It is {right}.", body
                )
            case "repeats":
                return self.write("I add the two numbers and I get the sum of both of them.", f"It is {right}.", body)
            case "babbles":
                return self.write(thought, f"It is {right}.", body, tokens=3 * body["max_tokens"])
            case "echoes the key":
                return self.write(f"{thought} {body['key'].removeprefix('Bearer ')}", f"It is {right}.", body)
            case "goes on":
                return self.write(" ".join(f"Then {each} follows." for each in range(300)), f"It is {right}.", body)
            case "explains":
                return self.write(thought, "It saves work: nobody goes through the same things a second time.", body)
            case "says nothing":
                return self.write("", f"It is {right}.", body)
            case _:
                return self.write(thought, f"It is {right}.", body)

    def write(self, thought, answer, body, finish="stop", tokens=REPLY_TOKENS):
        self.billed_tokens += PROMPT_TOKENS + tokens
        counted = [usage(PROMPT_TOKENS, tokens, tokens // 2)] if self.counts else []
        if self.field == "tags":
            return reply(part(f"<think>\n{thought}\n</think>\n\n{answer}"), part(finish=finish), *counted, DONE)
        parts = [part(reasoning=thought, field=self.field)] if thought else []
        return reply(self.pause_seconds, *parts, part(answer), part(finish=finish), *counted, DONE)


@contextmanager
def teaching(behaviour=(), **options):
    """Serve a scripted teacher; yields its address, as --teacher takes it, and the script."""
    script = ScriptedTeacher(behaviour, **options)
    with serving(script) as (url, _):
        yield f"{url}#expert", script
