"""Speed of generation: ours with many rows at once, transformers' generate row by row, and its own batching.

python benchmarks/generate_speed.py [--rows 32] [--rounds 3] [--tokens 96] [--threads 2] [--device cuda]
python benchmarks/generate_speed.py --launches [--layers 28] [--rows 32]

The demo's shape with random weights that leave no close choices. Every contender answers the same questions greedily,
in turn, round after round, and its replies are compared with the first one's. Prints one JSON object; on a shared
machine only the ratios mean anything.

`--launches` counts what the host hands to the device for one token of every row: operations and graphs, by plain passes
and by static ones, greedy and sampled. On the CPU, where nothing can be captured, a static pass counts as the one graph
that it is on a card.
"""

import json
import logging
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import ContinuousBatchingConfig, GenerationConfig

from thinktune.demo.pipeline import MODEL_SHAPE, read_bundled
from thinktune.demo.tiny_model import make_model, make_tokenizer
from thinktune.inference.cuda_graphs import CudaGraphs
from thinktune.inference.decode_runner import CAPTURED_AFTER, DecodeMode, DecodeRunner
from thinktune.inference.engine import Engine
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.requests import Request, SamplingParams
from thinktune.inference.sampling.sampler import Sampler
from thinktune.tokenization import Turn
from thinktune.tokenization.chat_template import render_prompt

VOCABULARY = 2500
Texts = list[str]


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--launches", action="store_true")
    parser.add_argument("--layers", type=int, default=MODEL_SHAPE.num_layers)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    questions, model, tokenizer = _rows(options.rows, options.layers, torch.device(options.device))
    if options.launches:
        print(
            json.dumps({"layers": options.layers, "rows": options.rows} | count_launches(model, options.rows), indent=1)
        )
        return
    contenders: dict[str, Callable[[], Texts]] = {
        "generate, one by one": lambda: _one_by_one(model, tokenizer, questions, options.tokens),
        "transformers continuous batching": lambda: _continuous_batching(model, tokenizer, questions, options.tokens),
        "thinktune, one by one": lambda: _ours(model, tokenizer, questions, options.tokens, concurrency=1),
        "thinktune": lambda: _ours(model, tokenizer, questions, options.tokens, options.rows, "plain"),
        "thinktune, static": lambda: _ours(model, tokenizer, questions, options.tokens, options.rows, "static"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    expected: Texts | None = None
    for number in range(options.rounds + 1):  # the first round warms up
        for name, generate in contenders.items():
            started = time.perf_counter()
            texts = generate()
            print(f"round {number}: {name} {time.perf_counter() - started:.2f} s", file=sys.stderr, flush=True)
            if number:
                seconds[name].append(time.perf_counter() - started)
            expected = expected or texts
            same = sum(a == b for a, b in zip(texts, expected, strict=True))
            if same < len(texts):
                print(f"{name}: {same} of {len(texts)} replies equal the first contender's")
    assert expected
    slowest = seconds["generate, one by one"]
    found = {
        name: {
            "seconds": round(statistics.median(taken), 3),
            "times_as_fast": round(statistics.median(a / b for a, b in zip(slowest, taken, strict=True)), 2),
        }
        for name, taken in seconds.items()
    }
    print(
        json.dumps(
            {
                "rows": options.rows,
                "new_tokens": options.tokens,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "threads": options.threads,
                "device": options.device,
            }
            | found,
            indent=1,
        )
    )


class _Operations(TorchDispatchMode):
    """Counts the operations that the device is given; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.is_counting = 0, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        is_view = all(tensor.untyped_storage()._cdata in given for tensor in made) and not func._schema.is_mutable
        self.count += self.is_counting and not is_view
        return found


def count_launches(model: Any, rows: int) -> dict[str, dict[str, int]]:
    """Return how many operations and graphs a token of `rows` replies costs by plain and by static passes."""
    found: dict[str, dict[str, int]] = {}
    for sampling in (SamplingParams(9), SamplingParams(9, 0.6, top_p=0.95, top_k=20)):
        found["greedy" if sampling.is_greedy else "sampled"] = {
            passes: _count_a_token(model, rows, sampling, is_static=passes == "static")
            for passes in ("plain", "static")
        }
    return found


def _count_a_token(model: Any, rows: int, sampling: SamplingParams, *, is_static: bool) -> int:
    operations = _Operations()

    def as_graph(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def replay() -> Tensor:
            operations.is_counting = False
            tokens = step()
            operations.is_counting, operations.count = True, operations.count + 1
            return tokens

        return replay

    graphs = CudaGraphs(model.device) if model.device.type == "cuda" else as_graph
    runner = DecodeRunner(model, is_static=is_static, capture=graphs)
    samplers = [Sampler(sampling) for _ in range(rows)]
    with torch.inference_mode():
        cache = KVCache(model)
        cache.prefill([[3]] * rows)
        for _ in range(CAPTURED_AFTER + 1):
            runner.decode(cache, [3] * rows, samplers).tokens.tolist()
        with operations:
            runner.decode(cache, [3] * rows, samplers)
    return operations.count + (is_static and model.device.type == "cuda")  # torch does not dispatch a replay


def _rows(count: int, layers: int, device: torch.device) -> tuple[list[str], Any, Any]:
    """Return the demo's held-out questions, tokenizer, and model with weights too large for rounding to matter."""
    facts = read_bundled("facts.jsonl")
    texts = [text for fact in facts for text in (*fact["questions"], fact["reasoning"], fact["answer"])]
    tokenizer = make_tokenizer(texts, VOCABULARY)
    model = make_model(tokenizer, replace(MODEL_SHAPE, num_layers=layers)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.fill_(1.0)
    model.set_attn_implementation("thinktune_rows")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.to(device)
    return [question for fact in facts for question in fact["held_out"]][:count], model, tokenizer


def _one_by_one(model: Any, tokenizer: Any, questions: Sequence[str], tokens: int) -> Texts:
    found = []
    for question in questions:
        prompt = torch.tensor([render_prompt([Turn("user", question)], tokenizer)], device=model.device)
        written = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        found.append(_text(tokenizer, written[0, prompt.shape[1] :].tolist()))
    return found


def _continuous_batching(model: Any, tokenizer: Any, questions: Sequence[str], tokens: int) -> Texts:
    prompts = [render_prompt([Turn("user", question)], tokenizer) for question in questions]
    settings = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    model.set_attn_implementation("sdpa")  # it supports no other on this machine
    try:
        written = model.generate_batch(
            prompts,
            generation_config=settings,
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=512),
        )
    finally:
        model.set_attn_implementation("thinktune_rows")
    replies = sorted(written.values(), key=lambda reply: int(reply.request_id.rsplit("_", 1)[-1]))
    return [_text(tokenizer, reply.generated_tokens) for reply in replies]


def _ours(
    model: Any, tokenizer: Any, questions: Sequence[str], tokens: int, concurrency: int, decode: DecodeMode = "plain"
) -> Texts:
    requests = [Request((Turn("user", question),), SamplingParams(tokens)) for question in questions]
    with closing(Engine(model, tokenizer, decode=decode)) as engine:
        found = dict(engine.complete(requests, concurrency))
    return [found[number].reasoning + found[number].answer for number in range(len(requests))]


def _text(tokenizer: Any, ids: list[int]) -> str:
    from thinktune.inference.replies import parse_reply

    reply = parse_reply(tokenizer.backend_tokenizer.decode([token for token in ids if token != tokenizer.eos_token_id]))
    return reply.reasoning + reply.answer


if __name__ == "__main__":
    main()
