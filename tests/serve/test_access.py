"""Who may use the server: pages, names and paths that were allowed, and nobody else."""

import re

import httpx
import pytest
from support.api_server import QUESTION, ScriptedBackend, scripted_model, serving

from thinktune.errors import UserError
from thinktune.http.listening import reachable_name
from thinktune.http.security import LOOPBACK_HOSTS, find_access

CHAT = "/v1/chat/completions"
PAGE = "https://app.example.com"


def test_an_allowed_page_may_call_and_read_refusals_and_another_may_not():
    preflight = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
        "access-control-request-private-network": "true",
    }
    with serving([scripted_model(ScriptedBackend("yes"))], key="secret", origins=frozenset({PAGE})) as address:
        asked = httpx.options(f"{address}{CHAT}", headers=preflight)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
        assert asked.headers["access-control-allow-private-network"] == "true"
        with_key = {"origin": PAGE, "authorization": "Bearer secret"}
        answered = httpx.post(f"{address}{CHAT}", json={"messages": QUESTION, "topK": 1}, headers=with_key)
        assert answered.status_code == 200
        assert answered.headers["access-control-allow-origin"] == PAGE
        assert "x-thinktune-warnings" in answered.headers["access-control-expose-headers"]
        refused = httpx.post(f"{address}{CHAT}", json={"messages": QUESTION}, headers={"origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        other = httpx.options(f"{address}{CHAT}", headers=preflight | {"origin": "https://evil.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        evil = httpx.post(
            f"{address}{CHAT}", json={"messages": QUESTION}, headers=with_key | {"origin": f"{PAGE}.evil"}
        )
        assert evil.status_code == 403
        assert "access-control-allow-origin" not in evil.headers


def test_a_name_that_is_allowed_reaches_the_server_and_no_other():
    with serving(
        [scripted_model(ScriptedBackend("yes"))], hosts=frozenset({"127.0.0.1", "host.docker.internal"})
    ) as address:
        port = address.rpartition(":")[2]
        for name, status in (("host.docker.internal", 200), ("HOST.docker.internal", 200), ("docker.internal", 421)):
            assert httpx.get(f"{address}/v1/models", headers={"host": f"{name}:{port}"}).status_code == status


@pytest.mark.parametrize("kept", [True, False], ids=["the proxy keeps the path", "the proxy takes it off"])
def test_below_a_path_all_is_served_and_the_key_is_asked_for(kept):
    prefix = "/proxy/8420"
    with serving([scripted_model(ScriptedBackend("yes"))], key="secret", root_path=prefix) as address:
        base, key = address + prefix * kept, {"authorization": "Bearer secret"}
        page = httpx.get(f"{base}/")
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert links
        for link in links:
            assert httpx.get(f"{base}/{link}").status_code == 200
        assert httpx.get(f"{base}/v1/models").status_code == 401
        assert httpx.get(f"{base}/v1/models", headers=key).status_code == 200
        assert httpx.get(f"{base}{prefix}/v1/models").status_code in (401, 404)
        assert httpx.post(f"{base}{CHAT}", json={"messages": QUESTION}, headers=key).status_code == 200
        for odd in ("//v1/models", f"{prefix}//v1/models", f"{prefix[:-1]}/v1/models", "/x/../v1/models"):
            assert httpx.get(address + odd).status_code in (401, 404)


@pytest.mark.parametrize("prefix", ["/v", "/v1/c", "/v1"])
def test_a_root_path_never_cuts_inside_of_a_name(prefix):
    with serving([scripted_model(ScriptedBackend("yes"))], key="secret", root_path=prefix) as address:
        for path in ("/v1/models", f"{prefix}/v1/models"):
            assert httpx.get(f"{address}{path}").status_code in (401, 404)
        assert httpx.post(f"{address}{CHAT}", json={"messages": QUESTION}).status_code in (401, 404)


def test_what_is_no_name_is_refused_with_all_mistakes_at_once():
    with pytest.raises(UserError) as refused:
        find_access(
            None, "127.0.0.1", ["http://a", "b:80", "ok.example"], ["app.example.com", "https://a/b", "*"], "a b"
        )
    assert [fault.partition(":")[0] for fault in refused.value.faults] == [
        "--allow-origin", "--allow-origin", "--allow-host", "--allow-host", "--root-path", "--allow-origin"
    ]  # fmt: skip
    access = find_access("k", "127.0.0.1", ["Ok.Example"], ["*", "null", PAGE], "proxy/8420/")
    assert access.hosts == LOOPBACK_HOSTS | {"ok.example"}
    assert access.root_path == "/proxy/8420"
    assert access.allows_origin("https://any.example", "h")
    assert find_access("k", "0.0.0.0", [], [], "").hosts is None


def test_the_printed_address_is_one_that_others_can_type():
    for host in ("0.0.0.0", "::"):
        name = reachable_name(host).strip("[]")
        assert name
        assert name not in ("0.0.0.0", "::")
    assert reachable_name("::1") == "[::1]"
    assert reachable_name("127.0.0.1") == "127.0.0.1"
