"""Sets that are not made for fine-tuning are called by their name, with the way to use them."""

import json

import pytest
from support.advice import follow_advice, outcome
from support.prepared_rows import write

# Long enough to be a method that rows may share.
THOUGHT = "Let me compare them one by one, first by what they are made of, then by their place, and last by what they are used for."

GOOD = "<think>Let me look at it.</think>It is the second one, of course."
BAD = "I would not know."
USER, REPLY, WORSE = (
    {"role": "user", "content": "Which one is it?"},
    {"role": "assistant", "content": GOOD},
    {"role": "assistant", "content": BAD},
)


def as_sharegpt(message):
    return {"from": "human" if message["role"] == "user" else "gpt", "value": message["content"]}


def rows_like(row, count=4):
    return [json.loads(json.dumps(row).replace("Which one", f"Which one of {n}")) for n in range(count)]


@pytest.fixture
def file_of(tmp_path):
    return lambda rows: str(write(tmp_path / "rows.jsonl", rows))


PAIRS = [
    ({"prompt": "Which one is it?", "chosen": GOOD, "rejected": BAD}, "{question: prompt, answer: chosen}"),
    ({"instruction": "Which one is it?", "input": "", "chosen": GOOD, "rejected": BAD}, "{question: instruction, answer: chosen}"),
    ({"chosen": [USER, REPLY], "rejected": [USER, WORSE]}, "{messages: chosen}"),
    ({"prompt": "Which one is it?", "chosen": [USER, REPLY], "rejected": [USER, WORSE], "score_chosen": 8.5, "score_rejected": 2}, "{messages: chosen}"),
    ({"prompt": [USER], "chosen": [REPLY], "rejected": [WORSE]}, "{question: prompt, answer: chosen}"),
    ({"prompt": "Which one is it?", "chosen": [REPLY], "rejected": [WORSE]}, "{question: prompt, answer: chosen}"),
    ({"conversations": [*map(as_sharegpt, (USER, REPLY, USER))], "chosen": as_sharegpt(REPLY), "rejected": as_sharegpt(WORSE)}, "{question: conversations, answer: chosen}"),
    ({"question": "Which one is it?", "better_response": GOOD, "worse_response": BAD}, "{question: question, answer: better_response}"),
    ({"system": "Be brief.", "query": "Which one is it?", "response_chosen": GOOD, "response_rejected": BAD}, "{question: query, answer: response_chosen}"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "columns"), PAIRS)
def test_pairs_are_named_and_their_better_replies_can_be_trained(tree, tokenizer, file_of, row, columns):
    file = file_of(rows_like(row))
    left, [sentence] = outcome(tree, tokenizer, name=file)
    assert left == 0
    assert "holds pairs of a better and a worse reply (" in sentence
    assert f"; to train on the better ones, write data.columns: {columns} and data.ignore: [" in sentence
    [(_, left, stops)] = follow_advice(tree, tokenizer, name=file)
    assert (left, stops) == (4, [])


def test_pairs_of_whole_conversations_as_text_are_named(tree, tokenizer, file_of):
    row = {
        "chosen": f"\n\nHuman: Which one is it?\n\nAssistant: {GOOD}",
        "rejected": "\n\nHuman: Which one?\n\nAssistant: No.",
    }
    _, [sentence] = outcome(tree, tokenizer, name=file_of(rows_like(row)))
    assert sentence.endswith(
        "each is a whole conversation in one text ('Human:'): split chosen into a list of messages"
    )


def test_pairs_that_are_ignored_on_purpose_leave_the_conversation(tree, tokenizer, file_of):
    row = {"messages": [USER, REPLY], "chosen": GOOD, "rejected": BAD}
    assert outcome(tree, tokenizer, name=file_of(rows_like(row)), ignore=["chosen", "rejected"]) == (4, [])


def test_a_worse_reply_beside_a_whole_conversation_is_only_left_out(tree, tokenizer, file_of):
    row = {"messages": [USER, REPLY], "rejected_response": "Another reply, which is a good deal worse."}
    file = file_of(rows_like(row))
    _, stops = outcome(tree, tokenizer, name=file)
    assert "may be a worse reply, which must not be trained" in stops[0]
    [(changed, left, stops)] = follow_advice(tree, tokenizer, name=file)
    assert (changed["ignore"], left, stops) == (["rejected_response"], 4, [])


OTHERS = [
    ({"data_source": "math", "prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "2"}}, "holds prompts (prompt) and something to check replies with (reward_model), as for reinforcement learning, and no replies"),
    ({"prompt": "Which one is it?", "ground_truth": "the second"}, "holds prompts (prompt) and something to check replies with (ground_truth)"),
    ({"prompt": "Which one is it?", "id": 3}, "holds prompts (prompt), as for reinforcement learning, and no replies"),
    ({"messages": [USER]}, "holds prompts (messages), as for reinforcement learning, and no replies"),
    ({"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": [-100, 2, 3]}, "holds token ids (input_ids, labels): it is already tokenized"),
    ({"text": "<|im_start|>user\nWhich one?<|im_end|>\n<|im_start|>assistant\nThis one.<|im_end|>"}, "holds one text a row (text), already rendered with a chat template or a prompt ('<|im_start|>')"),
    ({"text": "### Instruction:\nPick one.\n\n### Response:\nThis one."}, "already rendered with a chat template or a prompt ('### Instruction:')"),
    ({"text": "[INST] Which one? [/INST] This one."}, "already rendered with a chat template or a prompt ('[INST]')"),
    ({"text": "The heart is a muscle. It pumps blood.", "meta": {"n": 1}}, "holds plain text (text) without questions and answers, as for pretraining"),
    ({"prompt": "Which one is it?", "completion": "<|im_start|>think\nLet me see.\n<|im_start|>answer\nThis one."}, "holds replies that already contain the marks of a chat template or a prompt ('<|im_start|>')"),
    ({"prompt": "Which one is it?", "completion": "<Ponder>Let me see.</Ponder> This one."}, "holds replies that begin with '<Ponder>', which may mark the reasoning"),
    ({"prompt": "Which one is it?", "completion": "## Thinking\n\nLet me see.\n\n## Final Response\n\nThis one."}, "holds replies that begin with '## Thinking', which may mark the reasoning"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "words"), OTHERS)
def test_sets_without_replies_to_train_are_named_and_offer_nothing(tree, tokenizer, file_of, row, words):
    file = file_of(rows_like(row))
    left, stops = outcome(tree, tokenizer, name=file)
    assert left == 0
    assert any(words in stop for stop in stops), stops
    assert follow_advice(tree, tokenizer, name=file) == []


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which one is it?", "think": THOUGHT, "answer": "The second.", "input_ids": [1, 2], "reward": 1.0},
        {"prompt": "Which one is it?", "completion": GOOD, "ground_truth": "2"},
        {"question": "Which one is it?", "think": THOUGHT + " I have chosen well.", "answer": "The chosen one.", "chosen": 1, "rejected": 0},
        {"prompt": "Which one is it, <image> or <img>?", "completion": GOOD},
    ],
)  # fmt: skip
def test_rows_that_only_look_like_such_sets_are_trained(tree, tokenizer, file_of, row):
    assert outcome(tree, tokenizer, name=file_of(rows_like(row))) == (4, [])
