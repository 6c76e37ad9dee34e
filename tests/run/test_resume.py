"""A run's recorded recipe against the one that would resume it: which changes make it another run, and their names."""

import pytest
import yaml
from support.runs import settings

from thinktune.errors import UserError
from thinktune.run import RunFolder
from thinktune.run.resume import recipe_changes, record_recipe


@pytest.fixture
def recorded(tmp_path):
    """Return a function that records a run with these sources, as releases did before `data.replay` had settings."""
    own = {"name": "mine.jsonl", "validation": 0.1, "max_tokens": 2048}
    general = {"name": "bundled:general", "share": 0.3, "validation": 0.0, "max_tokens": 2048}
    tree = {"name": "old", "runs_folder": str(tmp_path), "model": {"name": "m"}, "train": {"epochs": 2}}

    def record(**changes):
        run = RunFolder(tmp_path / "old")
        run.path.mkdir(exist_ok=True)
        listed = [own, general | changes]
        run.recipe.write_text(yaml.safe_dump(tree | {"data": listed}), encoding="utf-8")
        return tree | {"data": own}, tree | {"data": listed}

    return record


def test_replay_and_the_list_that_it_stands_for_are_one_recipe(recorded, tmp_path):
    short, listed = recorded()
    replayed = settings(short, data={"replay": 0.3})
    assert recipe_changes(replayed, tmp_path / "old") == []
    record_recipe(replayed, tmp_path / "old")
    assert recipe_changes(settings(listed), tmp_path / "old") == []


@pytest.mark.parametrize(
    ("then", "replay", "told"),
    [
        ({}, 0.2, "changed: data.replay.share (was 0.3, is 0.2);"),
        ({}, {"share": 0.3, "answers": "own"}, "changed: data.replay.answers (was 'rows', is 'own');"),
        ({"share": 0.2, "silent_share": 0.5}, 0.3, "data.1.silent_share (data.1 is the replay once data is a list"),
    ],
)
def test_what_differs_between_replay_and_a_list_is_named_as_the_recipe_has_it(recorded, tmp_path, then, replay, told):
    short, listed = recorded(**then)
    with pytest.raises(UserError) as error:
        recipe_changes(settings(short, data={"replay": replay}), tmp_path / "old")
    assert told in str(error.value)
    assert recipe_changes(settings(listed), tmp_path / "old") == []


def test_other_rows_of_the_replay_are_judged_by_their_content(recorded, tmp_path):
    short, _ = recorded()
    replay = {"share": 0.3, "rows": "copy.jsonl"}
    changes = recipe_changes(settings(short, data={"replay": replay}), tmp_path / "old")
    assert changes == ["data.replay.rows (was 'bundled:general', is 'copy.jsonl')"]


@pytest.mark.parametrize("data", [{}, {"replay": 0.3}])
def test_a_source_that_is_gone_or_new_makes_another_run(recorded, tmp_path, data):
    short, listed = recorded()
    record_recipe(settings(listed | {"data": [*listed["data"], listed["data"][1]]}), tmp_path / "old")
    with pytest.raises(UserError, match=r"changed: data \(was '3 sources', is "):
        recipe_changes(settings(short, data=data), tmp_path / "old")
