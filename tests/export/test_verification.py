"""The twenty questions: a right export passes in its form, and each planted fault fails in every form."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.asked_models import PlainTransformers
from support.exported_runs import FORMS, export_run, reference_of
from support.planted_faults import FAULTS, WEIGHTS, edit_json
from support.runs import quiet
from tokenizers import normalizers

from thinktune.errors import UserError
from thinktune.export.rounding import round_weights
from thinktune.export.verification import MIN_KL, own_prompt, verify_export
from thinktune.tokenization import Turn


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return export_run(tmp_path_factory)


@pytest.fixture(scope="module")
def reference(run):
    return reference_of(run, *FORMS)


@pytest.fixture(scope="module")
def few(reference):
    """Return the same with a few of the questions, for what any of them would show."""
    return replace(reference, answers=reference.answers[:4], ends=reference.ends[:2])


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run / "final", tmp_path / "copy")


def check(folder, reference, form="f32"):
    return verify_export("copy", form, PlainTransformers(folder), reference, quiet)


def test_a_right_copy_gives_every_reply_in_both_modes(copy, reference):
    found = check(copy, reference)
    assert (found.questions, found.held_out, found.equal, found.faults, found.first) == (20, 20, 20, (), None)
    assert found.kl < MIN_KL / 100
    assert found.rounding < 1e-3
    assert found.other_mode == 4
    assert found.ends == 5
    assert any(answer.ended for answer in reference.answers)


EXPECTED = {
    "wrong_rope": "its mean KL divergence is",
    "swapped_head": "its mean KL divergence is",
    "lost_end_token": r"replies do not end at <\|im_end\|>, where the model's do",
    "wrong_pre_tokenizer": "has other tokens than the model's",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails(copy, few, fault):
    FAULTS[fault](copy)
    found = check(copy, few)
    assert any(re.search(EXPECTED[fault], each) for each in found.faults), found


@pytest.mark.slow
@pytest.mark.parametrize("base", ["untied", "tied"])
@pytest.mark.parametrize("form", ["bf16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_in_a_coarse_form_and_is_ten_times_its_rounding(
    tmp_path_factory, tmp_path, base, form, fault
):
    run = export_run(tmp_path_factory, base)
    folder = shutil.copytree(run / "final", tmp_path / "copy")
    FAULTS[fault](folder)
    found = check(folder, reference_of(run, *FORMS), form)
    assert found.faults
    if fault == "wrong_pre_tokenizer":  # told by its tokens, whatever they do to a reply
        assert any("other tokens" in each for each in found.faults)
        assert any("cuts" in each for each in found.faults)
    else:
        assert found.kl > 10 * found.kl_limit


def test_a_form_passes_with_its_own_rounding_and_fails_with_a_coarser_one(copy, few):
    weights = load_file(copy / WEIGHTS)
    rounded = {name: round_weights(each, "q8_0") if each.dim() > 1 else each for name, each in weights.items()}
    save_file(rounded, copy / WEIGHTS, {"format": "pt"})
    assert not check(copy, few, "q8_0").faults
    assert "rounding of f32 explains" in "".join(check(copy, few, "f32").faults)


def test_a_reply_may_part_only_where_our_own_best_tokens_are_closer_than_the_rounding(copy, few):
    found = verify_export("copy", "bf16", _Parting(few, PlainTransformers(copy)), few, quiet)
    assert found.kl < MIN_KL
    [fault] = found.faults
    assert "differs from the model's at token 0" in fault
    assert not verify_export("copy", "q8_0", _Parting(few, PlainTransformers(copy)), few, quiet).faults


class _Parting(PlainTransformers):
    """An engine with our logits, whose reply begins with a token that is not among our best."""

    def __init__(self, reference, inner):
        self.inner, self.answers = inner, {answer.question.prompt: answer for answer in reference.answers}
        self.render, self.tokenize = inner.render, inner.tokenize

    def logits(self, ids):
        [answer] = [each for prompt, each in self.answers.items() if tuple(ids[: len(prompt)]) == prompt]
        before = np.zeros((len(answer.question.prompt) - 1, answer.logits.shape[1]), np.float32)
        return np.concatenate([before, answer.logits])

    def reply(self, ids, max_new_tokens):
        answer = self.answers.get(tuple(ids))
        if answer is None:
            return [0]
        far = next(token for token in range(5, 300) if token not in answer.best[0])
        return [far, *answer.reply[1:]]


def test_an_early_end_fails_in_every_form(copy, few):
    ends_early = few.answers[0].reply[3]
    edit_json(copy, "generation_config.json", lambda config: config.update(eos_token_id=[2, ends_early]))
    assert "where the model's reply continues" in "".join(check(copy, few, "q4_k_m").faults)


def test_a_template_that_lost_the_switch_fails_by_the_other_modes_prompt(copy, few):
    def change(config):
        config["chat_template"] = config["chat_template"].replace("enable_thinking", "no_such_switch")

    edit_json(copy, "tokenizer_config.json", change)
    [fault] = check(copy, few).faults
    assert "without thinking has other tokens" in fault


def test_a_vocabulary_of_another_size_and_logits_that_are_not_finite_fail(copy, few):
    class Cut(PlainTransformers):
        def logits(self, ids):
            return super().logits(ids)[:, :-3]

    class Broken(PlainTransformers):
        def logits(self, ids):
            return np.full_like(super().logits(ids), np.nan)

    [cut] = verify_export("copy", "f32", Cut(copy), few, quiet).faults
    assert "scores" in cut
    [broken] = verify_export("copy", "f32", Broken(copy), few, quiet).faults
    assert "not finite" in broken


def test_a_template_that_refuses_is_one_sentence(copy, few):
    class Refusing(PlainTransformers):
        def render(self, turns, *, thinking):
            raise ValueError("roles must alternate")

    with pytest.raises(UserError, match=r"copy: its chat template refuses '.*roles must alternate"):
        verify_export("copy", "f32", Refusing(copy), few, quiet)


def test_text_that_only_our_tokenizer_normalizes_is_given_normalized(copy, few):
    ours = PlainTransformers(copy)
    plain = PlainTransformers(copy)
    ours.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    turns = (Turn("user", "cafe\u0301 心脏"),)
    text = plain.render(turns, thinking=True)
    wanted = tuple(ours.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    assert tuple(plain.tokenize(text)) != wanted
    question = replace(few.answers[0].question, turns=turns, prompt=wanted)
    assert tuple(own_prompt(question, plain, ours.tokenizer)) == wanted
