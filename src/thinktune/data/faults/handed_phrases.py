"""Phrases, Chinese and English, of replies that speak of an answer, a passage or tools that they were handed."""

import re
from dataclasses import dataclass

NOT_CHOICES = r"(?!\s*(?:choice|option|选项))"  # "the given answer choices" do not give the answer


@dataclass(frozen=True, slots=True)
class Handed:
    """A kind of handed context, in lower case: phrases that speak of it, and words of a prompt that holds it.

    `cue`: words of which each phrase has one, so that only what stands around them is searched. `only_bare`: the
    phrases may mean the question itself, so they count only after a short question that embeds nothing. `listed`: what
    a system prompt must say instead of `held`.
    """

    what: str
    cue: re.Pattern[str]
    phrases: re.Pattern[str]
    held: re.Pattern[str]
    only_bare: bool = False
    listed: re.Pattern[str] | None = None


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_ZH_GAVE = (
    r"(?:提供|给出|给定|所给|给到?我|用户给|题目给|附上|附带|附|列出)(?:给我)?"
    r"(?:了|过|好)?的?(?:这|那|该)?一?[篇段份个些条]?的?"
)


_ZH_FOUND = r"(?:检索到|搜索到|查到|返回)的?"


_ZH_BY = (
    r"(?:根据|按照|依据|依照|结合|基于|对照|参照|遵循|符合|超出|围绕|利用|引用|从)(?:了|一下|着)?"
    r"(?:这些|这段|这份|这个|该|上述|以上|其)?的?"
)


_ZH_SPEAKS = (
    r"(?:里|中|内|所|也|都|并|还|只|仅|已经|已|没有|并未|未)*"
    r"(?:有?提到|提及|说|指出|显示|写到|写道|写着|给出|记载|描述|强调|列出|列举|包含|包括|涉及|介绍|表明|可知|讲)"
)


_ZH_REFERENCE = (
    r"(?:参考|背景|检索|搜索|辅助|补充|上下文)的?"
    r"(?:信息|资料|内容|材料|文本|文档|片段|段落|文章|知识|结果|回答|解答)"
)


_ZH_PASSAGE = r"(?:文章|文档|段落|短文|原文|文本|上下文|网页|材料|资料|摘要|法条|条文)"


_EN_GIVEN = r"(?:provided|given|supplied|attached|retrieved|accompanying|referenced|cited|included)"


_EN_PASSAGE = (
    r"(?:(?:reference|source|background|supporting|context|retrieved|search)\s)?"
    r"(?:materials?|passages?|documents?|articles?|excerpts?|snippets?|sources?|texts?|paragraphs?|references?|notes|"
    r"chunks?|documentation|context|search results|report)"
)


_EN_SPEAKS = (
    r"(?:\s+(?:also|only|just|does|do|did|doesn't|don't|clearly|explicitly|briefly|already|not))*"
    r"\s+(?:says?|states?|mention(?:s|ed)?|notes?|describes?|explains?|indicates?|lists?|tells?|confirms?|suggests?|"
    r"provides?|specif(?:ies|y)|points? out|shows?|gives?|covers?|contains?|includes?|discuss(?:es)?)\b"
)


_EN_ANSWER = rf"(?:solution|answer|explanation|response|rationale){NOT_CHOICES}"


REFERENCE = Handed(
    "a reference",
    _any("参考|背景|检索|搜索|辅助|补充|上下文", "reference|search|retriev|source|support|background"),
    _any(
        rf"{_ZH_GAVE}{_ZH_REFERENCE}",
        rf"{_ZH_FOUND}{_ZH_REFERENCE}",
        rf"{_ZH_BY}{_ZH_REFERENCE}",
        rf"{_ZH_REFERENCE}{_ZH_SPEAKS}",
        rf"(?:这些|这段|这份|上述|以上){_ZH_REFERENCE}",
        rf"\b(?:the|this|these|that)\s+(?:{_EN_GIVEN}\s+)?(?:reference|source|background|supporting|retrieved)\s+"
        r"(?:material|information|text|passage|document|content|context|article|excerpt|note|snippet|chunk|paragraph)s?\b",
        r"\b(?:the|these)\s+(?:provided\s+)?(?:search|retrieval)\s+results\b",
        rf"\b(?:the|this|these)\s+{_EN_GIVEN}\s+(?:references?|sources?|information\s+source)\b",
        rf"\bthe\s+references?(?:\s+{_EN_GIVEN})?{_EN_SPEAKS}",
    ),
    _any(
        r"参考|资料|材料|文献|检索|搜索|背景|上下文|片段|已知信息|以下信息|如下信息",
        r"reference|source|background|retriev|search|material|passage|context|document|article",
    ),
)


PASSAGE = Handed(
    "a passage",
    _any(
        rf"{_ZH_PASSAGE}|文中",
        "passage|document|article|excerpt|text|snippet|chunk|source|reference|search|material|paragraph|report|notes",
    ),
    _any(
        rf"{_ZH_GAVE}(?:相关|背景|医学|法律)?{_ZH_PASSAGE}",
        rf"(?:这篇|该篇|这段|该段|这份|上述|以上){_ZH_PASSAGE}{_ZH_SPEAKS}",
        r"(?:^|[，。,.\s])(?:但|而|不过|因为|所以|根据|从)?(?:原文|文中|文章|短文|材料|文档)(?:里|中)?"
        r"(?:也|还|只|并没有|没有|已经|已|明确)?(?:提到|提及|指出|写道|说到|给出)",
        rf"\b(?:the|this|these|that)\s+{_EN_GIVEN}\s+{_EN_PASSAGE}\b",
        rf"\bthe\s+{_EN_PASSAGE}\s+(?:that\s+(?:was|is|were)\s+)?(?:provided|supplied|attached|given to me)\b",
        rf"\b(?:the|this)\s+(?:passage|document|article|excerpt){_EN_SPEAKS}",
        r"\b(?:according to|based on|from)\s+the\s+(?:passage|document|article|excerpt|text)\b",
    ),
    _any(
        _ZH_PASSAGE,
        r"以下|如下|下面|上面|上述|阅读|全文|课文|翻译",
        r"passage|document|article|excerpt|text|context|material|source|paragraph|report|story|poem|below|following|above",
        r"read|book|note|paper|study|translat",
    ),
    only_bare=True,
)


TOOLS = Handed(
    "tools",
    _any("tool", "function", r"\bapi", "工具", "函数", "接口"),
    _any(
        r"\b(?:the|my|these|those)\s+(?:available|provided|given|listed|accessible)\s+(?:tools?|functions?|apis?)\b",
        r"\b(?:tools?|functions?|apis?)\s+(?:that\s+(?:are|were)\s+|i\s+(?:have|was given)\s+)?"
        r"(?:provided|listed|at my disposal|given to me|available to me)\b",
        r"\bno\s+(?:specific\s+|suitable\s+|available\s+)?tools?\s+(?:for|that|is|are|available|to|here|specifically)\b",
        r"\b(?:call|use|invoke|using|calling)\s+(?:the\s+)?[`'\"]?[a-z0-9]+_[a-z0-9_]+[`'\"]?\s+tool\b",
        r"\bmy tools\b",
        r"\bi (?:don't|do not) have (?:a|any|the) (?:tools?|functions?)\b",
        r"(?:提供|给出|给定|列出|所给|允许使用)(?:给我)?的(?:工具|函数|接口)",
        r"可用的?(?:工具|函数|接口)(?:列表|里|中|都|并|只有|包括|有|没有|不)",
        r"(?:没有|并无|缺少)(?:合适|可用|相关|对应|专门)的?(?:工具|函数|接口)",
        r"我(?:的|有的|拥有的)工具",
        r"(?:查看|检查|看看|利用|使用|调用)(?:一下)?(?:可用|现有|提供|给定)的?(?:工具|函数|接口)",
        r"工具列表(?:里|中)",
        r"(?:调用|使用)\s*[`'\"]?[a-z0-9]+_[a-z0-9_]+[`'\"]?\s*(?:工具|接口)",
    ),
    _any("tool", "function", r"\bapi", "工具", "函数", "接口"),
    # A system prompt that only says that there are tools does not list them.
    listed=_any(
        r"<tools?>",
        r"\"name\"\s*:",
        r"\b[a-z]+_[a-z_]*[a-z]\b",
        r"(?:tools?|functions?|apis?|工具|函数|接口)\s*[:：]",
        r"\b[a-z]+\(",
    ),
)


SOLUTION = Handed(
    "an answer",
    _any("答案|解析|解答|回答|回复", "answer|solution|explanation|response|rationale|ground[- ]truth"),
    _any(
        r"(?:用户|题目|题干|系统|上面|上文|前面|前文|问题)(?:中|里|已经|已|所|有|还|也|直接)*"
        r"(?:提供|给出|给|附上|附|写|列出)(?:给我)?(?:了|过|好)?(?:的|一个|这个)*"
        r"(?:参考|标准|正确|现成|完整|示例|最终|官方|简短|详细|初步)?的?(?:答案|解析|解答|回答|回复)",
        r"(?:参考|标准|官方)(?:答案|解析|解答|回答)(?:里|中|内)?(?:也|只|仅|已经|已|还|都|没有|并未)?"
        r"(?:是|提到|提及|说|指出|认为|给出|包括|包含|列|强调|写|为|选)",
        r"(?:提供|给出|给定|所给|已有|现有|原始|原来)的(?:参考|标准|正确|完整|示例)?的?(?:答案|解析|解答|回答|回复)",
        r"(?:根据|按照|依据|依照|对照|参照|参考|结合|与|和|跟)(?:一下)?"
        r"(?:上述|以上|这个|该|已知|给定|提供|参考|标准)的?(?:答案|解析|解答)",
        rf"\b(?:the|this|that)\s+(?:provided|official|reference|ground[- ]truth|gold(?:en)?|supplied|pre-?written)\s+"
        rf"(?:correct\s+|final\s+|expected\s+|short\s+)?{_EN_ANSWER}",
        rf"\bthe\s+given\s+(?:correct\s+|final\s+)?{_EN_ANSWER}(?!s?\s+of\b)",
        r"\bthe\s+(?:solution|answer|explanation|response|rationale)\s+(?:(?:that|which)\s+)?"
        r"(?:(?:was|is|has been|i was|i am|i'm)\s+)?(?:already\s+)?"
        r"(?:provided|supplied|given (?:to me|above|by the user|in the (?:prompt|question|problem|text)))\b",
        r"\bthe\s+(?:user|prompt|question|problem|instruction)(?:'s)?\s+(?:has\s+|have\s+|already\s+)*"
        r"(?:provided|provides|supplied|supplies|gave|given)\s+"
        rf"(?:me\s+)?(?:with\s+)?(?:the|an|a|its|their)\s+(?:\w+\s+)?{_EN_ANSWER}",
        r"\bthe\s+ground[- ]truth\s+(?:is|says|states)\b",
        rf"\bmatch(?:es)?\s+the\s+(?:expected|reference|given|provided|official)\s+{_EN_ANSWER}",
    ),
    _any(
        r"答案|解析|解答|回答[:：]",
        r"answers?\s*[:：]|(?:my|their|this|the|given) answer|solution|explanation|response|rationale",
    ),
)


# An answer spoken of as if it lay there. Who plans one writes that it should mention something, or to do so in it.
LYING_ANSWER = Handed(
    "an answer",
    _any("答案", "the answer", r"the\s+answer"),
    _any(
        r"(?<!确保)(?<!需要)(?<!应该)(?<!最终)(?<!整理)(?<!组织)(?<!选项)(?<!的)(?<!在)答案(?:里|中)"
        r"(?:也|都|还|只|仅|可能|其实|确实)?(?:已经|已)?(?:并没有|没有|没|未)?"
        r"(?:提到|提及|说的?是|给出|涵盖|合并|概括|列出|用了)",
        r"(?<!给出)(?<!的)答案(?:本身)?已经(?:给出|提到|涵盖|概括|包含|包括|说明)",
        r"(?:根据|按照|依据|对照)(?:给的|这个|该)?答案(?!\w{0,2}(?:选项|格式|要求|类型|长度|是否|来源|范围|区域))",
        r"(?:但|而|不过|因为|所以)(?:原|该)?答案(?:并没有|没有|没|未)提到",
        rf"\b(?:but|and|since|because|as|however,?|so|although|also,?|yes,?)\s+the\s+answer{_EN_SPEAKS}",
        r"\bthe\s+answer\s+(?:does not|doesn't|did not|didn't|already|only)\s+"
        r"(?:mentions?|includes?|says?|lists?|covers?|states?)\b",
    ),
    _any(r"答案|选项|回答[:：]|answer|option|choice", r"(?:\A|\s)[ab][.、．)）:：]"),
)
