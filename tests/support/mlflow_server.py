"""A small MLflow tracking server on the loopback: its REST interface as the client uses it, kept in memory."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class StoredRun:
    """What the server knows of a run."""

    info: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[dict] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)

    def document(self):
        latest = {metric["key"]: metric for metric in self.metrics}
        params = [{"key": key, "value": value} for key, value in self.params.items()]
        return {"run": {"info": self.info, "data": {"metrics": list(latest.values()), "params": params, "tags": []}}}


class MlflowServer:
    """The server; `runs` by their ids, `refuses` answers every request with 403."""

    def __init__(self):
        self.runs: dict[str, StoredRun] = {}
        self.experiments: dict[str, str] = {}
        self.refuses = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                parts = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                status, found = outer.answer(parts.path, query, body)
                text = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815 (the names that http.server calls)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path, query, body):
        if self.refuses:
            return 403, {"error_code": "PERMISSION_DENIED", "message": "no right to write here"}
        if "/mlflow-artifacts/artifacts/" in path:
            run_id, _, name = path.partition("/mlflow-artifacts/artifacts/")[2].partition("/")
            self.runs[run_id].artifacts[unquote(name)] = body.decode()
            return 200, {}
        given = query | (json.loads(body) if body else {})
        return getattr(self, path.partition("/mlflow/")[2].replace("/", "_").replace("-", "_"))(given)

    def experiments_get_by_name(self, given):
        name = given["experiment_name"]
        if name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        return 200, {"experiment": {"experiment_id": self.experiments[name], "name": name}}

    def experiments_create(self, given):
        self.experiments[given["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[given["name"]]}

    def runs_create(self, given):
        run_id = f"run{len(self.runs)}"
        info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": given["experiment_id"], "status": "RUNNING"}
        info |= {
            "run_name": given["run_name"],
            "artifact_uri": f"mlflow-artifacts:/{run_id}",
            "lifecycle_stage": "active",
        }
        self.runs[run_id] = StoredRun(info)
        return 200, self.runs[run_id].document()

    def runs_get(self, given):
        return 200, self.runs[given["run_id"]].document()

    def runs_update(self, given):
        stored = self.runs[given["run_id"]]
        stored.info |= {key: given[key] for key in ("status", "run_name") if given.get(key)}
        return 200, {"run_info": stored.info}

    def runs_log_batch(self, given):
        stored = self.runs[given["run_id"]]
        assert len(given.get("params", [])) <= 100
        stored.params |= {param["key"]: param["value"] for param in given.get("params", [])}
        stored.metrics += given.get("metrics", [])
        return 200, {}

    def runs_log_metric(self, given):
        self.runs[given["run_id"]].metrics.append({key: given[key] for key in ("key", "value", "timestamp", "step")})
        return 200, {}

    def metrics_get_history(self, given):
        key = given["metric_key"]
        return 200, {"metrics": [metric for metric in self.runs[given["run_id"]].metrics if metric["key"] == key]}
