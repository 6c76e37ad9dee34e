"""Runs whose layer inputs wait in host memory: the losses of a plain run, also when it resumes the other way."""

import pytest
from support.runs import quiet, settings

from thinktune.errors import UserError
from thinktune.model.long_rows.activation_offload import ActivationOffloader
from thinktune.run import journal
from thinktune.train import train
from thinktune.train.setup import open_run


def losses(run):
    return [each["loss"] for each in journal.read_metrics(run) if "loss" in each]


def test_a_run_may_change_where_its_inputs_wait(tree, monkeypatch):
    """From the card to the host in the middle of a run, and the whole time: each as without."""
    packs, own = [], ActivationOffloader.pack
    monkeypatch.setattr(ActivationOffloader, "pack", lambda self, tensor: packs.append(1) or own(self, tensor))
    steps = {"log_every_steps": 1, "evaluate_every_steps": 2}
    plain = train(settings(tree, train=steps), quiet, ("test",))
    assert not packs
    offloaded = settings(tree, train=steps | {"offload_activations": True}, name="offloaded")
    assert losses(train(offloaded, quiet, ("test",))) == pytest.approx(losses(plain), rel=1e-5)
    assert packs
    run = open_run(settings(tree, train=steps, name="changed"), quiet, ("test",))
    setting = run.context.setting
    assert (setting.offload_activations, setting.activation_budget) == (False, 1.0)
    again = open_run(
        settings(tree, train=steps | {"offload_activations": True}, name="changed"), quiet, ("test",)
    ).context
    assert (again.setting.offload_activations, again.setting.activation_budget) == (True, 0.0)
    recorded = open_run(settings(tree, train=steps, name="offloaded"), quiet, ("test",)).context.setting
    assert (recorded.offload_activations, recorded.activation_budget) == (True, 0.0)
    other = open_run(
        settings(tree, train=steps | {"activation_budget": 0.5}, name="offloaded"), quiet, ("test",)
    ).context
    assert (other.setting.offload_activations, other.setting.activation_budget) == (False, 0.5)


def test_inputs_on_the_host_and_a_budget_are_two_answers_to_one_question(tree):
    with pytest.raises(UserError, match=r"expert\.offload_activations is true, .*expert\.activation_budget is 0\.5"):
        settings(tree, train={"offload_activations": True, "activation_budget": 0.5})
    assert settings(tree, train={"offload_activations": True, "activation_budget": 0}).train.offload_activations
