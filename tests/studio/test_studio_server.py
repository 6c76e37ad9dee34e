"""The studio's server: who may use it, what it serves, and pages of the folder that may be a stranger's."""

import hashlib
import re
from pathlib import Path

import httpx
import pytest
from support.recorded_run import write_run
from support.studio import studio_of

from thinktune.studio.server import POLICIES, SCREENS, read_studio_page

PAGE_BYTES = 500_000
RECIPE = "model: {name: a/b}\ndata: {name: rows.jsonl}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    write_run(path / "runs" / "one", 1e-5)
    (path / "runs" / "one" / "report.html").write_text("<script>1</script>", encoding="utf-8")
    (path / "mine.yaml").write_text("name: one\n" + RECIPE)
    (path / "secret.txt").write_text("x")
    return path


@pytest.fixture(scope="module")
def client(folder):
    with studio_of(folder) as address, httpx.Client(base_url=address) as client:
        yield client


def test_every_screens_address_shows_the_page_wherever_a_proxy_has_put_it(client, folder):
    for path in ("/", *(f"/{screen}/runs/one" for screen in SCREENS), "/rows"):
        shown = client.get(path)
        assert shown.status_code == 200
        assert 'src="/page/main.js"' in shown.text
        assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
    with studio_of(folder, root_path="/lab/8430") as address:
        assert 'src="/lab/8430/page/main.js"' in httpx.get(f"{address}/lab/8430/train/runs/one").text


def test_other_sites_and_other_hosts_are_kept_out_and_the_key_is_asked_for(client, folder):
    body, kind = b'{"verb": "train", "recipe": "mine.yaml"}', {"content-type": "application/json"}
    assert (
        client.post("/studio/acts", content=body, headers=kind | {"origin": "https://evil.example"}).status_code == 403
    )
    assert client.post("/studio/acts", content=body, headers=kind | {"host": "evil.example"}).status_code == 421
    assert client.post("/studio/acts", content=body, headers={"content-type": "text/plain"}).status_code == 415
    with studio_of(folder, key="k") as address:
        assert httpx.get(f"{address}/").status_code == 200
        for path in ("home", "runs", "acts", "run/runs/one", "navigation?name=runs/one"):
            assert httpx.get(f"{address}/studio/{path}").status_code == 401, path
        assert httpx.get(f"{address}/studio/home", headers={"authorization": "Bearer k"}).status_code == 200


@pytest.mark.parametrize("path", ["/studio/run/../mine.yaml", "/studio/run/%2e%2e/x", "/studio/run//etc", "/studio/run-charts/..%2fx", "/studio/acts/..%2f..%2fmine.yaml"])  # fmt: skip
def test_no_address_leads_out_of_the_folder(client, path):
    found = client.get(path)
    assert found.status_code in (400, 404)
    assert found.json()["error"]["message"]


def test_a_page_of_the_folder_runs_as_an_origin_of_its_own_and_only_by_an_address_of_this_studio(client):
    address = client.get("/studio/run/runs/one").json()["report"]
    shown = client.get(f"/{address}")
    assert shown.text == "<script>1</script>"
    policy = shown.headers["content-security-policy"]
    assert re.search(r"sandbox (?!.*allow-same-origin)", policy)
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert client.get(f"/shown/{'0' * 32}/runs/one/report.html").status_code == 404
    assert client.get("/shown/é/runs/one/report.html").status_code == 404
    ticket = address.split("/")[1]
    assert client.get(f"/shown/{ticket}/secret.txt").status_code == 404
    assert client.get("/studio/page-link/secret.txt").status_code == 400
    assert client.get("/studio/page-link/runs/one/report.html").json() == {"address": address}


def test_what_is_wrong_is_told_as_a_sentence(client, folder):
    assert "not in this folder" in client.get("/studio/run/runs/none").json()["error"]["message"]
    assert "not a run folder" in client.get("/studio/run/mine.yaml").json()["error"]["message"]
    assert "sort" in client.get("/studio/runs?sort=nix").json()["error"]["message"]
    torn = write_run(folder / "runs" / "torn", 1e-5)
    (torn / "metrics.jsonl").write_text('{"kind": 1}\n{"kind": "eval", "step": 1}\n')
    found = client.get("/studio/run/runs/torn")
    assert found.status_code == 409
    assert "metrics.jsonl:1" in found.json()["error"]["message"]


def test_the_page_is_small_and_loads_nothing_from_elsewhere():
    page = read_studio_page()
    loaded = {name: content for name, content in page.items() if not name.endswith("LICENSES.txt")}
    assert sum(map(len, loaded.values())) < PAGE_BYTES
    for name, content in page.items():
        if name.endswith((".html", ".css")) or (name.endswith(".js") and "libraries/" not in name):
            assert b"http://" not in content.replace(b"http://www.w3.org", b"").replace(b"http://localhost", b""), name
            assert b"innerHTML" not in content.replace(b"dangerouslySetInnerHTML", b""), name
    assert all("unsafe" not in policy or start == "/shown/" for start, policy in POLICIES.items())


def test_the_libraries_are_those_of_the_lock_file():
    web = Path(__file__).parents[2] / "web"
    files = (web / f"{name}.sha256" for name in ("shared-libraries", "studio-libraries"))
    named = dict(reversed(line.split()) for file in files for line in file.read_text().splitlines())
    page = read_studio_page()
    assert set(named) == {name.removeprefix("libraries/") for name in page if name.startswith("libraries/")}
    for name, digest in named.items():
        assert hashlib.sha256(page[f"libraries/{name}"]).hexdigest() == digest


def test_a_page_that_is_read_in_chinese_gets_chinese_sentences(client):
    chinese = {"accept-language": "zh-CN"}
    assert "没有任务 'none'" in client.get("/studio/acts/none", headers=chinese).json()["error"]["message"]
    assert "there is no act 'none'" in client.get("/studio/acts/none").json()["error"]["message"]
    texts = ["runs/one is not training on this machine, so there is nothing to stop", "a row's own text: 42"]
    said = client.post("/studio/sentences", json={"texts": texts}).json()["texts"]
    assert said == ["runs/one 没有在这台机器上训练，没有可停止的", texts[1]]
    assert client.post("/studio/sentences", json={"texts": ["x"] * 501}).status_code == 400
