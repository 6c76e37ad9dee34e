"""A download on the page: how many bytes are through, of how many, and the time left, in both languages."""

import json

import pytest
from filelock import FileLock
from support.studio import open_page, studio_of


@pytest.mark.slow
def test_a_download_shows_its_bytes_and_the_time_left(browser, tmp_path):
    act = tmp_path / ".thinktune" / "acts" / "20261129-120000-check-abc123"
    act.mkdir(parents=True)
    record = {"verb": "check", "about": {"recipe": "mine.yaml"}, "command": "thinktune check", "started_at": 1.0}
    (act / "act.json").write_text(json.dumps(record))
    known = {"done": 1.25 * 2**30, "total": 3.5 * 2**30, "seconds_left": 83, "waits": False}
    unknown = {"done": 2**20 * 7, "total": None, "seconds_left": None, "waits": False}
    shown = [
        ("en-US", "bytes downloaded", known, "downloaded 1.3 GiB / 3.5 GiB · 1:23 left"),
        ("zh-CN", "bytes downloaded", known, "已下载 1.3 GiB / 3.5 GiB · 剩余 1:23"),
        ("en-US", "bytes sent", unknown, "sent · 7.0 MiB"),
        ("en-US", "rows", known | {"done": 1500, "total": 3000}, "rows 1,500 / 3,000 · 1:23 left"),
    ]
    with FileLock(act / "lock"), studio_of(tmp_path) as address:
        for locale, what, progress, text in shown:
            (act / "progress.json").write_text(json.dumps({"what": what} | progress))
            with open_page(browser, address, locale=locale) as page:
                page.get_by_text(text, exact=True).wait_for(timeout=10_000)
