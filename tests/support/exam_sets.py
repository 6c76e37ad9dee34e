"""Small files in the layouts of public exams, all questions our own, and a hub's folders of them."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ZH = [
    ("成年人安静时心率的正常范围大约是每分钟多少次？", ["20 到 40", "60 到 100", "120 到 160", "180 到 220"], "B"),
    ("下列哪一种维生素缺乏会引起夜间视物不清？", ["维生素甲", "维生素乙", "维生素丙", "维生素丁"], "A"),
    ("测量血压前应该让受试者安静休息至少多长时间？", ["一秒", "十秒", "五分钟", "五小时"], "C"),
]
EN = [
    ("A man of sixty cannot see at night and eats no vegetables. Which vitamin is most likely missing?", list("ABCD")),
]
JUDICIAL = (
    "问题：甲借给乙一万元，约定一年后归还，乙到期不还。下列哪些说法正确？选项：(A)甲可以请求乙还款 "
    "(B)甲可以请求逾期利息 (C)借款合同自始无效 (D)乙有权永久占有\n答案：从A到D, 我们应选择"
)


def table(columns, rows) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue().encode()


def parquet(rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, body in members.items():
            opened.writestr(name, body)
    return file.getvalue()


def to_json(rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


def lines(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def by_letter(options):
    return dict(zip("ABCDE", options, strict=False))


def cmmlu(names) -> bytes:
    """Make the archive of CMMLU: tables whose first column, of row numbers, has no name."""
    rows = [[number, question, *options, answer] for number, (question, options, answer) in enumerate(ZH)]
    body = table(["", "Question", "A", "B", "C", "D", "Answer"], rows)
    return archive({f"{split}/{name}.csv": body for split in ("dev", "test") for name in names} | {"readme.txt": b"."})


def ceval() -> bytes:
    rows = [{"id": n, "question": q, **by_letter(o), "answer": a, "explanation": ""} for n, (q, o, a) in enumerate(ZH)]
    return parquet(rows)


def mmlu() -> bytes:
    subjects = ["anatomy", "medical_genetics", "econometrics", "astronomy"]
    rows = [
        {"question": f"In {name}, which of these four words comes last in the alphabet of the English language?"}
        | {"subject": name, "choices": ["apple", "bread", "cheese", "zest"], "answer": answer}
        for name, answer in zip(subjects, (3, 3, 3, 0), strict=True)
    ]
    return parquet(rows)


SETS: dict[str, dict[str, bytes]] = {
    "fzkuji/CMExam": {
        "test.json": to_json(
            [
                {"Question": q, "Options": [{"key": k, "value": v} for k, v in by_letter(o).items()], "Answer": a}
                for q, o, a in [*ZH[:2], (ZH[2][0], ZH[2][1], "CD")]
            ]
        )
    },
    "FreedomIntelligence/CMB": {
        "CMB-Exam/CMB-val/CMB-val-merge.json": to_json(
            [
                {"exam_type": "医师考试", "question": ZH[0][0], "answer": "B", "question_type": "单项选择题"}
                | {"option": by_letter([*ZH[0][1], ""])},
                {"exam_type": "护理考试", "question": "下列哪些食物富含维生素丙，并且通常可以生吃？", "answer": "ACE"}
                | {"question_type": "多项选择题", "option": by_letter(["橙子", "生猪肉", "西红柿", "生豆角", "草莓"])},
            ]
        ),
        "CMB-Exam/CMB-train/CMB-train-merge.json": to_json([]),
    },
    "GBaker/MedQA-USMLE-4-options": {
        "phrases_no_exclude_test.jsonl": lines(
            [
                {"question": EN[0][0], "answer": "Vitamin A", "meta_info": "step1", "answer_idx": "C"}
                | {"options": by_letter(["Vitamin K", "Vitamin E", "Vitamin A", "Vitamin D"]), "metamap_phrases": ["x"]}
            ]
        ),
        "phrases_no_exclude_train.jsonl": lines([]),
    },
    "openlifescienceai/medmcqa": {
        "data/validation-00000-of-00001.parquet": parquet(
            [
                {"id": str(cop), "question": f"Which organ pumps blood through the whole body, case {cop}?"}
                | dict(zip(("opa", "opb", "opc", "opd"), ("heart", "liver", "lung", "spleen"), strict=True))
                | {"cop": cop, "choice_type": "single", "exp": None, "subject_name": "Physiology", "topic_name": None}
                for cop in (0, 3)
            ]
        )
    },
    "cais/mmlu": {"all/test-00000-of-00001.parquet": mmlu(), "anatomy/test-00000-of-00001.parquet": mmlu()},
    "lmlmcat/cmmlu": {
        "cmmlu_v1_0_1.zip": cmmlu(
            ["college_law", "international_law", "jurisprudence", "legal_and_moral_basis", "professional_law", "arts"]
        )
    },
    "ceval/ceval-exam": {
        f"{subject}/{split}-00000-of-00001.parquet": ceval()
        for subject in ("law", "legal_professional", "logic")
        for split in ("dev", "val", "test")
    },
    "Duxiaoman-DI/FinanceIQ": {
        f"data/{split}/{name}.csv": table(["", "Question", "A", "B", "C", "D", "Answer"], [[0, q, *o, a]])
        for split in ("dev", "test")
        for name, (q, o, a) in zip(("税务师", "注册会计师（CPA）"), ZH, strict=False)
    },
    "hails/agieval-jec-qa-kd": {
        "data/test-00000-of-00001.parquet": parquet(
            [
                {"query": JUDICIAL, "gold": [0, 1]}
                | {
                    "choices": [
                        "(A)甲可以请求乙还款",
                        "(B)甲可以请求逾期利息",
                        "(C)借款合同自始无效",
                        "(D)乙有权永久占有",
                    ]
                }
            ]
        )
    },
}
CARD = "---\nlicense: {}\n---\nOur own questions.\n"


def write_repository(folder: Path, name: str, licence: str | None = "mit") -> Path:
    """Write the files of a set as its repository has them."""
    for path, body in SETS[name].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    if licence:
        (folder / "README.md").write_text(CARD.format(licence), encoding="utf-8")
    return folder
