"""Questions with their correct answers, and answers of a teacher to each: right ones, and a hundred planted wrong ones."""

from dataclasses import dataclass

from thinktune.tokenization import Example, Turn


@dataclass(frozen=True)
class Planted:
    """A row's question, its own answer and key point, and what a teacher answers: rightly, and wrongly by kind."""

    question: str
    answer: str
    right: tuple[str, ...]
    wrong: dict[str, str]
    keypoint: str | None = None

    def example(self) -> Example:
        turns = (Turn("user", self.question), Turn("assistant", self.answer))
        return Example(turns, "rows.jsonl:3", self.keypoint)


OPTIONS_EN = "Which organ pumps blood?\nA. lung\nB. heart\nC. liver\nD. kidney"
OPTIONS_ZH = "维生素C缺乏会引起哪种疾病？\nA. 夜盲症\nB. 坏血病\nC. 佝偻病\nD. 脚气病"

PLANTED = [
    Planted(
        "A shop sells 12 boxes with 15 pens each. How many pens?",
        "12 * 15 = 180\n#### 180",
        ("180", "12 × 15 = 180, so the answer is 180.", "There are **180** pens.", "\\boxed{180}", "180 pens"),
        {
            "another number": "The answer is 190.",
            "a digit off": "1800",
            "a digit less": "18",
            "denied": "It is not 180.",
            "left open": "The answer is 180 or 190.",
            "taken back": "The answer is 180. Wait, no: the answer is 170.",
            "taken back, first right": "The answer is 180. On second thought, it depends.",
            "negative": "The answer is -180.",
            "percentage": "180%",
            "refusal": "I cannot answer this question.",
            "only the question's": "12 boxes with 15 pens",
            "boxed wrong, said right": "180 is wrong, so \\boxed{170}",
            "two boxes of words": "The answer is 27. Some would say 180 is right, but the answer is 27.",
        },
    ),
    Planted(
        "一辆车3小时行驶240公里，平均速度是多少？",
        "80公里/小时",
        ("80公里/小时", "答案：80公里/小时", "240÷3=80，所以平均速度是80公里/小时"),
        {
            "另一个数": "答案是60公里/小时。",
            "另一个单位": "80米/秒",
            "否定": "不是80公里/小时。",
            "两可": "80公里/小时或者90公里/小时",
            "不确定": "可能是80公里/小时，也可能是70公里/小时。",
            "只有题目的数": "240公里",
            "拒答": "无法判断。",
            "改口": "80公里/小时。不对，应该说是72公里/小时。",
        },
    ),
    Planted(
        "What dose of drug X is given daily?",
        "20 mg",
        ("20 mg", "The answer is 20 mg.", "20 milligrams", "0.02 g"),
        {
            "a thousand times": "20 g",
            "micrograms": "20 mcg",
            "volume": "20 ml",
            "another": "25 mg",
            "range": "20 to 40 mg or 30 mg",
            "negated": "never 20 mg",
        },
    ),
    Planted(
        "What is the normal pressure?",
        "120 mmHg",
        ("120 mmHg", "The answer is 120 mmHg."),
        {"another unit": "120 kPa", "another number": "140 mmHg", "half": "120/2 mmHg"},
    ),
    Planted(
        "What share of adults is concerned?",
        "20%",
        ("20%", "The answer is 20 %.", "0.2", "百分之二十"),
        {
            "another share": "25%",
            "a hundredth": "0.2%",
            "turned round": "80%",
            "permille": "20‰",
            "hedge": "20% or 30%",
        },
    ),
    Planted(
        OPTIONS_EN,
        "B",
        ("B", "The answer is B.", "B. heart", "It is the heart, so B."),
        {
            "another letter": "C",
            "stated": "The answer is A.",
            "both": "A and B",
            "left open": "The answer is B or C.",
            "letter of another's text": "B. liver",
            "all": "A, B, C, D",
            "taken back": "The answer is B. Correction: the answer is D.",
            "none": "None of them.",
            "denied": "The answer is not B.",
            "its text": "kidney",
            "long and wrong": "The lung takes in air and the heart moves blood, so the right option is A.",
            "two statements": "The answer is C. The answer is B.",
        },
    ),
    Planted(
        OPTIONS_ZH,
        "答案：B",
        ("B", "答案：B", "故选B。", "坏血病，选B"),
        {
            "另一个": "答案：C",
            "多选": "答案：BD",
            "不选": "不选B，选A",
            "张冠李戴": "B. 夜盲症",
            "先对后错": "答案：B。更正，答案：D",
            "不知道": "不知道",
            "文字": "脚气病",
        },
    ),
    Planted(
        "What is the capital of France?",
        "Paris",
        ("Paris", "The capital of France is Paris.", "The answer is Paris.", "**Paris**"),
        {
            "another": "Lyon",
            "sentence": "The capital of France is Lyon.",
            "denied": "It is not Paris.",
            "either": "Paris or Lyon",
            "passing mention": "The capital of France is Lyon, which is south of Paris.",
            "taken back": "Paris. Actually, Lyon.",
            "opposed": "Lyon rather than Paris",
            "rejected": "Paris is wrong.",
            "negated": "The capital of France isn't Paris.",
            "unsure": "Perhaps Paris.",
            "list": "Paris, Lyon, Nice",
            "country": "France",
            "repeats": "What is the capital of France?",
            "near": "Parisian",
        },
    ),
    Planted(
        "中国的首都是哪里？",
        "北京",
        ("北京", "北京。", "中国的首都是北京。", "答案是北京"),
        {
            "另一个": "上海",
            "整句": "中国的首都是南京。",
            "否定": "不是北京。",
            "两可": "北京或者南京",
            "而非": "南京而非北京",
            "顺带": "是南京，它在北京的南边。",
            "没有答": "中国的首都",
            "可能": "可能是北京吧",
            "否定句": "中国的首都并非北京",
        },
    ),
    Planted(
        "Is aspirin safe in pregnancy's last weeks?",
        "No",
        ("No", "No.", "No, it may close the duct too early."),
        {
            "yes": "Yes",
            "yes, because": "Yes, it is widely used.",
            "both": "No, well, yes.",
            "unsure": "Perhaps not.",
            "maybe": "It depends.",
        },
    ),
    Planted(
        "青霉素过敏的人可以用阿莫西林吗？",
        "不可以",
        ("不可以", "不可以。", "不可以，两者有交叉过敏"),
        {"相反": "可以", "相反句": "可以，但要小心", "视情况": "视情况而定", "不清楚": "不清楚"},
    ),
    Planted(
        "Which metal carries oxygen in blood, and in which molecule?",
        "It is the iron in the molecule haemoglobin that binds oxygen, reversibly, in the red cells of blood.",
        ("Iron, bound in haemoglobin.", "The metal is iron (Fe); it sits in haemoglobin."),
        {
            "another metal": "Copper, bound in haemoglobin.",
            "denied": "It is not iron; haemoglobin holds zinc.",
            "either": "Either iron or copper.",
            "rejected": "Iron is wrong, haemoglobin holds copper.",
            "nothing": "Oxygen is carried in blood.",
        },
        keypoint="iron",
    ),
    Planted(
        "感冒发热时首选的退热药是什么？请说明用法。",
        "首选对乙酰氨基酚，成人每次半克，四到六小时一次，一天不超过四次，肝病的人要减量或换药。",
        ("首选对乙酰氨基酚，按说明书服用。",),
        {
            "另一种药": "首选布洛芬，饭后服用。",
            "否定": "首选的不是对乙酰氨基酚，是阿司匹林。",
            "两可": "对乙酰氨基酚或布洛芬都行。",
            "空话": "建议多喝水，注意休息。",
        },
        keypoint="对乙酰氨基酚",
    ),
    Planted(
        "What does insulin do to blood sugar?",
        "Insulin lowers blood sugar by moving glucose into muscle and fat cells.",
        ("Insulin lowers blood sugar by moving glucose into muscle and fat cells.",),
        {
            "opposite": "Insulin raises blood sugar by moving glucose out of muscle and fat cells.",
            "denied": "Insulin never lowers blood sugar by moving glucose into muscle and fat cells.",
            "another": "Insulin lowers blood pressure.",
            "nothing": "Insulin does something to blood sugar.",
            "turned round": "Glucose lowers insulin by moving blood sugar into fat and muscle cells.",
        },
    ),
]

# Written after the graders were done, to see whether these hold for what they were not made with.
UNSEEN = [
    Planted(
        "A train leaves at 9:15 and takes 45 minutes. How many minutes past nine does it arrive?",
        "It arrives 60 minutes past nine.",
        ("60", "60 minutes", "9:15 plus 45 minutes is 60 minutes past nine. The answer is 60."),
        {
            "hours": "60 hours",
            "another": "It arrives 50 minutes past nine.",
            "negative wording": "Not 60 minutes past nine.",
            "two finals": "Final answer: 60. Final answer: 65.",
            "sum not done": "15 + 45",
            "approx": "between 50 and 70",
        },
    ),
    Planted(
        "Solve 2x = 1.",
        "\\[x = \\boxed{\\frac{1}{2}}\\]",
        ("1/2", "x = 1/2", "\\boxed{\\frac{1}{2}}", "The answer is 0.5."),
        {
            "inverse": "\\boxed{2}",
            "sign": "\\boxed{-\\frac{1}{2}}",
            "third": "1/3",
            "words": "x is two",
            "either": "1/2 or 2",
        },
    ),
    Planted(
        "Which gas do plants take in? (A) oxygen (B) carbon dioxide (C) nitrogen",
        "The correct answer is (B) carbon dioxide.",
        ("(B)", "B", "The answer is (B) carbon dioxide."),
        {"other": "(A)", "swapped": "(C) carbon dioxide is not it, so A", "either": "A or B", "negated": "It isn't B."},
    ),
    Planted(
        "Who wrote 'Hamlet'?",
        "William Shakespeare",
        ("William Shakespeare", "'Hamlet' was written by William Shakespeare.", "The answer is William Shakespeare."),
        {
            "other": "Christopher Marlowe",
            "first name only": "William",
            "not alone": "William Wordsworth, not William Shakespeare",
            "wrong with mention": "Christopher Marlowe wrote 'Hamlet' for William Shakespeare.",
            "question": "'Hamlet'",
            "deny": "William Shakespeare did not write it.",
        },
    ),
    Planted(
        "水的沸点是多少摄氏度？",
        "100摄氏度",
        ("100摄氏度", "水的沸点是100摄氏度。", "100℃"),
        {
            "华氏": "100华氏度",
            "另一个": "90摄氏度",
            "约": "大概是100摄氏度吧，也许不是",
            "零": "0摄氏度",
            "错": "100摄氏度是错的",
        },
    ),
    Planted(
        "高血压病人能大量吃盐吗？",
        "不能",
        ("不能", "不能，盐会使血压升高。"),
        {"能": "能", "可以": "可以适量多吃", "看情况": "看情况", "是": "是的"},
    ),
    Planted(
        "Explain why ice floats.",
        "Ice is less dense than water because its crystal keeps molecules apart.",
        ("Ice is less dense than water because its crystal keeps molecules apart.",),
        {
            "opposite": "Ice is more dense than water because its crystal packs molecules together.",
            "swap": "Water is less dense than ice because its crystal keeps molecules apart.",
            "negation": "Ice is not less dense than water because its crystal keeps molecules apart.",
            "other": "Ice holds air bubbles.",
        },
        keypoint="less dense",
    ),
]
