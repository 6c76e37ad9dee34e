"""Words of a run's data and environment in both languages: faults, policies, what became of rows, recorded facts."""

from thinktune.config import ROW_FAULTS
from thinktune.report.html import BilingualText

# Each fault's name and meaning; English has them in `ROW_FAULTS`.
_FAULTS_ZH = {
    "unreadable": ("无法读取", "这一行不是 JSON 对象、缺少映射到的列、含有半个字符，或写了不认识的模式"),
    "encoding": ("编码错误", "字节不是 UTF-8；修复：确定是 GBK 的按 GBK 读取"),
    "byte_order_mark": ("字节顺序标记", "文件以字节顺序标记（BOM）开头；修复：跳过它"),
    "file_form": (
        "文件格式不符",
        "文件内容与后缀不符，或在列名和数据之外还有别的内容（标题、没有名字的列、数据外面的键）；修复：按实际格式读取，每个文件说明一次",
    ),
    "loose_json": (
        "JSON 不规范",
        "这一行不是严格的 JSON：多一个逗号、按 Python 写法，或只是一个消息列表；修复：含义确定时照读",
    ),
    "not_text": (
        "不是文本",
        "应当是文本的地方是数字、列表或对象；修复：数字、true、false 写成文本，只有一项的列表取其文本",
    ),
    "blank": ("内容为空", "问题或回答为空或 null"),
    "role": ("角色错误", "对话的角色不认识或次序不对，或者调用了工具"),
    "loss_weight": ("loss 权重", "消息的权重（loss_scale、weight）既不是 0 也不是 1；保留：与其他消息一样训练"),
    "marked_bad": ("标为不好", "一列真假值（data.columns.label，如 KTO 数据集）把这条回复标为不好的"),
    "media": ("含图像、音频或视频", "这一行有图像、音频或视频，不参与训练；保留：只训练文字"),
    "ends_on_user": ("以用户结尾", "对话以用户的话结尾；修复：去掉最后一个问题"),
    "soft_switch": (
        "文本里的思考开关",
        "问题或系统提示词以 /think 或 /no_think 开头或结尾，它决定这一行的模式；修复：从文本中去掉，"
        "因为对话模板自己的开关会表达同样的意思",
    ),
    "mode_conflict": (
        "模式矛盾",
        "这一行要求不思考（开关、chat_template_kwargs 或模式列），却带着思考；修复：去掉思考，保留：按思考模式训练",
    ),
    "no_reasoning": (
        "没有思考",
        "思考为空，或什么都没说（一个词、省略号、把问题重复一遍、许多行都是同一句短话），而这一行没有要求不思考；"
        "silent：按对话模板的不思考模式训练",
    ),
    "reasoning_tag": (
        "不是 think 标签",
        "思考写在 think 标签以外的标记里（<Thought>、<reasoning>、## Thinking 等）；修复：读作思考，标记没有闭合的丢弃"
        "；别的标记用 expert.think_tags 指定",
    ),
    "answer_tag": (
        "回答带标签",
        "回答写在标签里（<answer>）；修复：去掉标签，除非这一行的提示要求这样写，或文件里其他回答没有标签",
    ),
    "role_mark": (
        "夹带对话标记",
        "问题里夹带一段对话（<user>: … <bot>: …，病人：… 医生：…），或回复以说话人的名字开头；"
        "修复：前者拆成各轮，只训练这一行自己的回复，后者去掉名字",
    ),
    "placeholder": ("占位符未填", "模板里的占位符没有填（{{name}}、{action}），不在代码里，这一行也不是在谈模板"),
    "fill_in": ("留有空格待填", "文本里留着待填的空（[Your Name]、<NAME>、XXX、TODO、请在此填写），也可能是在谈占位符"),
    "markup": (
        "网页标记",
        "代码之外有网页标记（<br>、&nbsp;）；修复：换成换行和字符，含有其他标签的文本保持原样",
    ),
    "spreadsheet": (
        "表格软件的痕迹",
        "文本被表格软件损坏：单元格是错误值（#NAME?）或在 32,767 个字符处截断的，丢弃这一行；"
        "修复：去掉 _x000D_ 和数字前的撇号；1.23E+15 这样的数字只提示，不改动",
    ),
    "garbled": (
        "乱码",
        "解码时丢了字符（U+FFFD、锟斤拷），或文本用错了编码（cafÃ©、浣犲ソ）；修复：后者重新解码",
    ),
    "think_tag": (
        "think 标签错误",
        "think 标签嵌套、重复、没有闭合、多余、大写、带空格或被转义；修复：有把握时读取或去掉，否则丢弃",
    ),
    "control_token": ("控制标记", "文本里写着特殊 token 或对话模板的标记；保留：按普通字符训练"),
    "control_character": ("控制字符", "有控制字符、零宽字符、回车符或 U+2028；修复：去掉或换行"),
    "odd_space": ("多余的空格", "字段首尾有空格，或含有特殊宽度的空格；修复：换成普通空格"),
    "literal_newline": ("字面的 \\n", "应当换行的地方写着反斜杠和 n；修复：有把握时换行，否则只提示"),
    "reasoning_is_answer": ("思考等于回答", "思考和回答是同一段文本"),
    "answer_is_question": ("回答等于问题", "回答只是把问题重复一遍"),
    "loop": ("循环重复", "思考或回答重复 20 次以上"),
    "repetition": ("多次重复", "思考或回答重复 6 到 19 次，可能是有意的"),
    "handed_answer": ("提到给定的答案", "思考里说答案是别人给的（也按 expert.handed_phrases 判断）"),
    "handed_context": ("提到不存在的资料", "回复提到了提示里没有的参考资料、文章或工具"),
    "quoted_column": ("照抄未使用的列", "思考大段照抄了没有用到的列，模型使用时看不到那些内容"),
    "bare_number": ("只有数字", "回答只是一个数"),
    "fragment": ("句子中断", "回答断在句子中间"),
    "cut_text": (
        "可能被截断",
        "同一列几乎都以句号之类结尾，这一条没有；或回答只有一个字符，或以冒号、破折号结尾：可能被截断，也可能完整",
    ),
    "language_mix": ("语言混杂", "按文字判断，问题、思考和回答的语言不同"),
    "too_long": (
        "超长",
        "这一行超过 data.max_tokens 个 token；trim-reasoning：从思考中间去掉整句",
    ),
    "duplicate": ("重复", "与前面的一行相同"),
    "leak": ("泄漏", "同样的问题也在留出数据里；丢弃：从训练数据里去掉"),
    "one_question": ("问题都一样", "大多数行问的是同一句话：问题可能在别的列里，或者这段话应写进 data.system"),
    "conflict": ("回答矛盾", "问题与前面的一行相同，回答不同"),
    "near_duplicate": ("近似重复", "问题与前面的一行几乎相同"),
}

_POLICIES_ZH = {
    "drop": "丢弃",
    "keep": "保留",
    "repair": "修复",
    "silent": "按不思考训练",
    "stop": "停止",
    "trim-reasoning": "裁剪思考",
}

_ACTIONS = {
    "dropped": BilingualText("dropped", "丢弃"),
    "kept": BilingualText("kept", "保留"),
    "repaired": BilingualText("repaired", "修复"),
    "trimmed": BilingualText("trimmed", "裁剪"),
    "stops": BilingualText("stopped the run", "使训练停止"),
}

_ENVIRONMENT_ZH = {
    "python": "Python",
    "platform": "系统",
    "processor_count": "处理器数",
    "started": "开始时间（UTC）",
    "model": "基座模型",
    "model_dtype": "模型存储的精度",
    "model_license": "模型许可证",
    "model_license_name": "模型许可证名称",
    "model_license_link": "模型许可证链接",
    "parameters": "参数量",
    "device": "设备",
    "device_name": "设备名称",
    "precision": "运算精度",
    "memory": "显存档位",
    "update_in_backward": "在反向传播之内更新",
    "activation_budget": "激活预算",
    "batch_tokens": "micro-batch 的 token 数",
    "strategy": "分布方式",
    "chunk_rows": "logits 分块的行数",
    "offload_activations": "激活值卸载到内存",
    "world_size": "进程数",
    "context_parallel": "分担一行的进程数",
    "steps": "步数",
    "code": "训练代码的指纹",
    "tokenizer_fingerprint": "分词器的指纹",
    "data_fingerprint": "数据的指纹",
    "weights_fingerprint": "权重的指纹",
}

_FLAGS = {True: BilingualText("yes", "是"), False: BilingualText("no", "否"), None: BilingualText("–", "–")}


def fault_name(fault: str) -> BilingualText:
    """Name a fault; in Chinese with the name that recipes use, which is what a reader must write."""
    known = _FAULTS_ZH.get(fault)
    return BilingualText(fault, f"{known[0]}（{fault}）" if known else fault)


def fault_meaning(fault: str, recorded: str = "") -> BilingualText:
    """Say what a fault means; `recorded` is the sentence that the run kept, of a release that knew the fault."""
    known = _FAULTS_ZH.get(fault)
    english = recorded or (ROW_FAULTS[fault].meaning if fault in ROW_FAULTS else "")
    return BilingualText(english, known[1] if known else english)


def policy_name(policy: str) -> BilingualText:
    """Name a policy; in Chinese with the name that recipes use."""
    known = _POLICIES_ZH.get(policy)
    return BilingualText(policy, f"{known}（{policy}）" if known else policy)


def action_name(action: str) -> BilingualText:
    """Say what became of rows with a fault."""
    return _ACTIONS.get(action, BilingualText(action, action))


def environment_name(key: str) -> BilingualText:
    """Name a fact of `environment.json`; libraries and unknown facts keep their key."""
    english = key.replace("_", " ")
    return BilingualText(english, _ENVIRONMENT_ZH.get(key, english))


def environment_value(value: object) -> object:
    """Return a fact's value; true, false and none become words in both languages."""
    return _FLAGS[value] if value is None or isinstance(value, bool) else value
