"""The journal: what is appended is read back, without secrets in what a run says of itself."""

from thinktune.run import RunFolder, journal


def test_an_event_that_quotes_a_setting_holds_no_secret_and_samples_are_kept_as_they_are(tmp_path):
    text = "resumed with a change: track.host (was None, is 'https://me:hunter2@swan.example')"
    sample = {"step": 1, "answer": "write to user:hunter2@hub.example"}
    journal.append(RunFolder(tmp_path).metrics, [{"kind": "event", "step": 1, "text": text}])
    journal.append(RunFolder(tmp_path).samples, [sample])
    [event] = journal.read_metrics(tmp_path)
    assert event["text"] == text.replace("hunter2", "***")
    assert journal.read_samples(tmp_path) == [sample]
