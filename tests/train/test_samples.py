"""Samples: a model that can make no reply costs the run its samples and nothing else, and that is said."""

import torch
from support.runs import settings

from thinktune.run import journal
from thinktune.train import samples
from thinktune.train.setup import open_run


def test_a_reply_that_cannot_be_made_is_an_event_of_the_run(tree):
    said = []
    run = open_run(settings(tree, generate={"sample_questions": 2, "max_new_tokens": 6}), said.append, ("test",))
    with torch.no_grad():
        run.context.model.model.norm.weight.fill_(3e38)  # finite, and its logits are not
    samples.write_samples(run.context, run.samples, 4)
    assert journal.read_samples(run.context.folder) == []
    [event] = [record for record in journal.read_metrics(run.context.folder) if record["kind"] == "event"]
    assert event["step"] == 4
    assert event["text"].startswith("no samples: model: no finite logits (NaN or infinity) at token 1 of a reply")
    assert said[-1] == f"step 4: {event['text']}"
