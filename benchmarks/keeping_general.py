"""General questions of the probe's eight kinds at the size of a tiny model, in English and Chinese, with exact keys.

Every kind draws from a small vocabulary, so that a model of a million parameters can learn it, and from many more
combinations than are asked, so that those held out are new to it. A fact stands in several phrasings; a question held
out has a new one.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from thinktune.eval.tasks import Task, make_task
from thinktune.tokenization import Turn

LANGUAGES = ("en", "zh")
MAX_ATTEMPTS = 60  # for each question that is wanted, until the vocabulary of a kind counts as used up


def _table(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each entry; entries end in a semicolon."""
    return tuple(tuple(entry.split()) for entry in text.rstrip(";").split(";"))


# English, Chinese, and of things the measure word.
NAMES = _table("Ana 小王; Ben 小李; Cora 小张; Dan 小陈; Eva 小刘; Finn 小赵; Gus 小孙; Ida 小周; Leo 小吴; Mia 小郑;")
NOUNS = _table(
    "cat 猫 只; dog 狗 只; bird 鸟 只; cup 杯子 个; apple 苹果 个; pen 笔 支; book 书 本; flower 花 朵; car 车 辆;"
    "hat 帽子 顶; shirt 衬衫 件; key 钥匙 把;"
)
COLOURS = _table("red 红; blue 蓝; green 绿; white 白; black 黑; yellow 黄;")
NUMBERS = _table("two 两; three 三; four 四; five 五; six 六; seven 七;")
DRINKS = _table("tea 茶; milk 牛奶; water 水; juice 果汁; coffee 咖啡; soup 汤;")
DAYS = _table("Monday 周一; Tuesday 周二; Wednesday 周三; Thursday 周四; Friday 周五; Saturday 周六; Sunday 周日;")
# What is given and what is right, in English and in Chinese.
CAPITALS = _table(
    "France Paris 法国 巴黎; Japan Tokyo 日本 东京; Italy Rome 意大利 罗马; Spain Madrid 西班牙 马德里;"
    "Egypt Cairo 埃及 开罗; Cuba Havana 古巴 哈瓦那; Greece Athens 希腊 雅典; Norway Oslo 挪威 奥斯陆;"
    "Peru Lima 秘鲁 利马; China Beijing 中国 北京; Kenya Nairobi 肯尼亚 内罗毕; Poland Warsaw 波兰 华沙;"
)
OPPOSITES = _table(
    "hot cold 热 冷; big small 大 小; fast slow 快 慢; old new 旧 新; high low 高 低; long short 长 短;"
    "wet dry 湿 干; good bad 好 坏; open shut 开 关; full empty 满 空; light dark 亮 暗; many few 多 少;"
)
# What has a property, by property, and what has none of them.
PROPERTIES = (
    ("colour", "颜色", (
        ("grass", "green", "草", "绿色"), ("snow", "white", "雪", "白色"), ("coal", "black", "煤", "黑色"),
        ("blood", "red", "血", "红色"), ("the sky", "blue", "天空", "蓝色"), ("corn", "yellow", "玉米", "黄色"),
    )),
    ("taste", "味道", (
        ("honey", "sweet", "蜂蜜", "甜"), ("salt", "salty", "盐", "咸"), ("lemon", "sour", "柠檬", "酸"),
        ("sugar", "sweet", "糖", "甜"), ("vinegar", "sour", "醋", "酸"), ("pepper", "hot", "辣椒", "辣"),
    )),
    ("sound", "叫声", (
        ("a cat", "meow", "猫", "喵"), ("a dog", "woof", "狗", "汪"), ("a cow", "moo", "牛", "哞"),
        ("a sheep", "baa", "羊", "咩"), ("a duck", "quack", "鸭子", "嘎"), ("a frog", "ribbit", "青蛙", "呱"),
    )),
)  # fmt: skip
THOUGHTS = (
    ("a minute", "一分钟"), ("Tuesday", "周二"), ("an idea", "主意"), ("the number nine", "数字九"), ("a dream", "梦"),
    ("silence", "安静"), ("luck", "运气"), ("a question", "问题"),
)  # fmt: skip
NONSENSE = ("That makes no sense.", "这没有意义。")
ASKED = (("", "Please tell me: ", "Say it in a word: "), ("", "请告诉我：", "用一个词说："))


@dataclass(frozen=True, slots=True)
class Question:
    """One general question with its reply; `history` are the turns before it, the user's first."""

    kind: str
    chinese: bool
    question: str
    think: str
    answer: str
    grader: str = "short"
    rules: Mapping[str, Any] | None = None
    history: tuple[str, ...] = ()

    @property
    def language(self) -> str:
        """Language as ISO 639-1."""
        return LANGUAGES[self.chinese]

    @property
    def prompt(self) -> str:
        """The whole prompt as one text, by which questions are told apart."""
        return "\n".join((*self.history, self.question))

    def row(self) -> dict[str, Any]:
        """Return a training row."""
        turns = [*self.history, self.question]
        messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
        reply = {"role": "assistant", "content": self.answer, "reasoning_content": self.think}
        return {"messages": [*messages, reply]}

    def task(self, name: str, number: int) -> Task:
        """Return the question as a task of the set `name`."""
        turns = tuple(Turn(("user", "assistant")[place % 2], text) for place, text in enumerate(self.history))
        graded = {"grader": self.grader, "rules": self.rules, "answer": self.answer}
        row = {"question": self.question, "history": turns, "kind": self.kind, "language": self.language, **graded}
        return make_task(row, name, f"{name}.jsonl:{number}")


def draw_general(counts: Mapping[str, int], seed: int = 0) -> dict[str, list[Question]]:
    """Draw questions for each use, none of which has two; `counts` are those of one kind in one language, by use.

    Where a kind's vocabulary has fewer, the last use has fewer.
    """
    drawn: dict[str, list[Question]] = {use: [] for use in counts}
    for kind, make in KINDS.items():
        for chinese in (False, True):
            draw = random.Random(f"{seed} {kind} {chinese}")
            found: dict[str, Question] = {}
            wanted = sum(counts.values())
            for _ in range(wanted * MAX_ATTEMPTS):
                one = make(draw, chinese)
                found.setdefault(one.prompt, one)
                if len(found) == wanted:
                    break
            left = iter(found.values())
            for use, count in counts.items():
                drawn[use].extend(islice(left, count))
    for questions in drawn.values():
        random.Random(seed).shuffle(questions)
    return drawn


def _arithmetic(draw: random.Random, chinese: bool) -> Question:
    """Ask for a sum or a difference of small numbers, in signs or in words."""
    a, b = draw.randint(2, 19), draw.randint(2, 9)
    name, noun = draw.choice(NAMES), draw.choice(NOUNS)
    plus = draw.random() < 0.5 or a <= b
    sign, result = ("+", a + b) if plus else ("-", a - b)
    if draw.random() < 0.4:
        text = (f"What is {a} {sign} {b}?", f"{a} {sign} {b} 等于多少？")[chinese]
    elif chinese:
        then = f"又买了{b}{noun[2]}" if plus else f"送走了{b}{noun[2]}"
        text = f"{name[1]}有{a}{noun[2]}{noun[1]}，{then}。现在有多少？"
    else:
        then = f"buys {b} more" if plus else f"gives {b} away"
        text = f"{name[0]} has {a} {noun[0]}s and {then}. How many now?"
    return Question("arithmetic", chinese, text, f"{a} {sign} {b} = {result}", str(result), "number")


def _reading(draw: random.Random, chinese: bool) -> Question:
    """Ask who has what or how many, from a text of two sentences."""
    names, nouns, counts = draw.sample(NAMES, 2), draw.sample(NOUNS, 2), draw.sample(range(2, 10), 2)
    facts = []
    for name, noun, count in zip(names, nouns, counts, strict=True):
        facts.append((f"{name[0]} has {count} {noun[0]}s.", f"{name[1]}有{count}{noun[2]}{noun[1]}。")[chinese])
    asked = draw.randrange(2)
    name, noun, count = names[asked], nouns[asked], counts[asked]
    questions = (
        ((f"Who has the {noun[0]}s?", f"谁有{noun[1]}？")[chinese], name[chinese]),
        ((f"How many {noun[0]}s are there?", f"{noun[1]}有多少？")[chinese], str(count)),
        ((f"What does {name[0]} have?", f"{name[1]}有什么？")[chinese], (f"{noun[0]}s", noun[1])[chinese]),
    )
    question, answer = draw.choice(questions)
    text = (" ", "")[chinese].join([*facts, question])
    return Question("reading", chinese, text, facts[asked], answer)


def _format(draw: random.Random, chinese: bool) -> Question:
    """Ask for a word in a form that can be checked."""
    word = draw.choice([*NOUNS, *COLOURS, *DRINKS, *NAMES])[chinese]
    times, number = draw.randint(2, 4), draw.randint(1, 9)
    stars = "*" * draw.randint(1, 3)
    written = (" ".join([word] * times), f"{stars}{word}{stars}", f'{{"word": "{word}"}}', f"{number}. {word}")
    form = draw.randrange(len(written))
    if chinese:
        text = (
            f"把“{word}”写{times}遍。", f"在“{word}”两边各写{len(stars)}个星号。",
            f"写一个JSON，键是word，值是“{word}”。", f"把“{word}”写成列表的第{number}项。",
        )[form]  # fmt: skip
        think = (f"写{times}遍{word}", f"{len(stars)}个星号和{word}", f"word是{word}", f"第{number}项是{word}")[form]
    else:
        text = (
            f"Write {word} {times} times.", f"Put {len(stars)} stars on each side of {word}.",
            f"Write JSON with the key word and the value {word}.", f"Write {word} as item {number} of a list.",
        )[form]  # fmt: skip
        thinks = (f"{word}, {times} times", f"{len(stars)} stars, {word}", f"word is {word}", f"item {number}: {word}")
        think = thinks[form]
    polite = draw.choice(ASKED[chinese][:2])
    rules = {"pattern": re.escape(written[form])}
    return Question("format", chinese, polite + text, think, written[form], "format", rules)


def _nonsense(draw: random.Random, chinese: bool) -> Question:
    """Ask for a property that a thing has, or that it cannot have."""
    property_ = draw.choice(PROPERTIES)
    name = property_[chinese]
    real = draw.random() < 0.5
    thing, value = (draw.choice(property_[2])[2 * chinese :][:2]) if real else (draw.choice(THOUGHTS)[chinese], "")
    if chinese:
        text = draw.choice((f"{thing}的{name}是什么？", f"说说{thing}的{name}。", f"{thing}有什么{name}？"))
        think = f"{thing}的{name}是{value}" if real else f"{thing}没有{name}"
    else:
        ways = (f"What is the {name} of {thing}?", f"Tell me the {name} of {thing}.", f"Which {name} has {thing}?")
        text = draw.choice(ways)
        think = f"the {name} of {thing} is {value}" if real else f"{thing} has no {name}"
    text = draw.choice(ASKED[chinese]) + text
    return Question("nonsense", chinese, text, think, value or NONSENSE[chinese], "short" if real else "refusal")


def _translation(draw: random.Random, chinese: bool) -> Question:
    """Ask for a phrase of number, colour and thing in the other language."""
    number, colour, noun = draw.choice(NUMBERS), draw.choice(COLOURS), draw.choice(NOUNS)
    english, other = f"{number[0]} {colour[0]} {noun[0]}s", f"{number[1]}{noun[2]}{colour[1]}{noun[1]}"
    words = [f"{one[chinese]} {one[not chinese]}" for one in (number, colour, noun)]
    if chinese:
        text = draw.choice((f"翻译成英文：{other}", f"“{other}”用英文怎么说？"))
    else:
        text = draw.choice((f"Translate into Chinese: {english}", f"How do you say {english} in Chinese?"))
    return Question("translation", chinese, text, ", ".join(words), english if chinese else other)


def _knowledge(draw: random.Random, chinese: bool) -> Question:
    """Ask for a capital, an opposite or the next day of the week."""
    group = draw.randrange(3)
    if group == 2:
        place = draw.randrange(7)
        given, answer = DAYS[place][chinese], DAYS[(place + 1) % 7][chinese]
    else:
        given, answer = draw.choice((CAPITALS, OPPOSITES)[group])[2 * chinese :][:2]
    if chinese:
        ways = (
            (f"{given}的首都是哪里？", f"哪座城市是{given}的首都？", f"{given}的首都叫什么？"),
            (f"“{given}”的反义词是什么？", f"什么和“{given}”相反？", f"写出“{given}”的反义词。"),
            (f"{given}的后一天是什么？", f"{given}过后是周几？", f"紧跟着{given}的是哪一天？"),
        )[group]
        think = (f"{given}的首都是{answer}", f"{given}和{answer}相反", f"{given}之后是{answer}")[group]
    else:
        ways = (
            (f"What is the capital of {given}?", f"Which city is the capital of {given}?",
             f"Name the capital of {given}."),
            (f"What is the opposite of {given}?", f"Which word is opposite to {given}?",
             f"Name the opposite of {given}."),
            (f"Which day comes after {given}?", f"What day follows {given}?", f"Name the day after {given}."),
        )[group]  # fmt: skip
        links = ("the capital of {} is {}", "the opposite of {} is {}", "after {} comes {}")
        think = links[group].format(given, answer)
    return Question("knowledge", chinese, draw.choice(ASKED[chinese]) + draw.choice(ways), think, answer)


def _code(draw: random.Random, chinese: bool) -> Question:
    """Ask what a few lines of Python print."""
    x, y = draw.sample("abcnxy", 2)
    one, two, three = draw.sample(range(1, 10), 3)
    place = draw.randrange(3)
    programs = (
        (f"{x} = {one}\n{y} = {two}\nprint({x} + {y})", f"{one} + {two} = {one + two}", one + two),
        (f"{x} = [{one}, {two}, {three}]\nprint({x}[{place}])", f"{x}[{place}] is {(one, two, three)[place]}",
         (one, two, three)[place]),
        (f"{x} = {one}\n{y} = {x}\n{x} = {two}\nprint({y})", f"{y} is {one}", one),
        (f"{x} = {one}\n{y} = {two}\nprint(max({x}, {y}))", f"max of {one}, {two} is {max(one, two)}", max(one, two)),
    )  # fmt: skip
    program, think, answer = draw.choice(programs)
    text = ("What does this print?\n", "这段代码输出什么？\n")[chinese] + program
    return Question("code", chinese, text, think, str(answer), "number")


def _dialogue(draw: random.Random, chinese: bool) -> Question:
    """Ask about what the user said before the assistant's first reply."""
    name, noun, drink, count = draw.choice(NAMES), draw.choice(NOUNS), draw.choice(DRINKS), draw.randint(2, 9)
    facts = [
        (f"my name is {name[0]}", f"我叫{name[1]}"),
        (f"I have {count} {noun[0]}s", f"我有{count}{noun[2]}{noun[1]}"),
        (f"I like {drink[0]}", f"我喜欢{drink[1]}"),
    ]
    questions = (
        (("What is my name?", "我叫什么？")[chinese], name[chinese]),
        (("What do I have?", "我有什么？")[chinese], (f"{count} {noun[0]}s", f"{count}{noun[2]}{noun[1]}")[chinese]),
        (("What do I like?", "我喜欢什么？")[chinese], drink[chinese]),
    )
    told = draw.sample(range(3), 2)
    asked = draw.choice(told)
    said = (" and ", "，")[chinese].join(facts[each][chinese] for each in told) + ".。"[chinese]
    history = (("Hello, ", "你好，")[chinese] + said, ("Nice to meet you.", "很高兴认识你。")[chinese])
    question, answer = questions[asked]
    return Question("dialogue", chinese, question, facts[asked][chinese], answer, history=history)


KINDS: dict[str, Callable[[random.Random, bool], Question]] = {
    "arithmetic": _arithmetic,
    "reading": _reading,
    "format": _format,
    "nonsense": _nonsense,
    "translation": _translation,
    "knowledge": _knowledge,
    "code": _code,
    "dialogue": _dialogue,
}
