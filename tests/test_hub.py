"""Tickets to a hub and back, by the real client of `huggingface_hub`, on a server of this process.

It speaks what the client asks of a hub: make a repository, say how files are uploaded, commit, and
read a file.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("huggingface_hub", reason="the package huggingface_hub is not installed")

SHA = "a" * 40  # of the only commit

PROGRAM = """
import torch, tombola as tb
from torch import nn

net, far = nn.Linear(4, 2), nn.Linear(4, 2)
tickets = tb.TicketModel(net, tb.MaskSet.dense(tb.scope(net), ["cat", "dog"])).eval()
print(tickets.push_to_hub("org/pets", private=True, token="hf_secret", licence="mit"))
again = tb.TicketModel.from_pretrained("org/pets", far)
x = torch.ones(3, 4)
assert torch.equal(again(x, ticket="dog"), tickets(x, ticket="dog"))
try:
    tickets.push_to_hub("taken/pets", token="hf_secret")
except tb.TombolaError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """One repository."""

    files: ClassVar[dict] = {}
    asked: ClassVar[list] = []

    def log_message(self, *_):
        pass

    def answer(self, status=200, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append((self.path, self.headers["Authorization"], body))
        if self.path == "/api/validate-yaml":
            self.answer(content={"errors": [], "warnings": []})
        elif self.path == "/api/repos/create" and b"taken" in body:
            self.answer(403, {"error": "no rights"}, X_Error_Message="no rights in this namespace")
        elif self.path == "/api/repos/create":
            self.answer(content={"url": f"http://{self.headers['Host']}/org/pets"})
        elif self.path == "/api/models/org/pets/preupload/main":
            named = json.loads(body)["files"]
            each = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in named]
            self.answer(content={"files": each})
        elif self.path == "/api/models/org/pets/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/org/pets/commit/{SHA}"
            self.answer(content={"commitUrl": url, "commitOid": SHA, "success": True})
        else:
            self.answer(404)

    def do_GET(self):
        content = self.files.get(self.path.rpartition("/")[2])
        if self.path.startswith("/org/pets/resolve/") and content is not None:
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(200, content, ETag=tag, X_Repo_Commit=SHA, Accept_Ranges="bytes")
        elif self.path.startswith("/api/models/org/pets"):
            self.answer(content={"id": "org/pets", "sha": SHA, "private": True, "siblings": []})
        else:
            self.answer(404)

    do_HEAD = do_GET


@pytest.fixture
def hub():
    Hub.files, Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_tickets_go_to_a_hub_and_come_back(hub, tmp_path):
    # A process of its own: the client reads where the hub is when it is imported.
    where = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    where |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | where, capture_output=True, text=True, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    address, refused = made.stdout.splitlines()
    assert address == f"{hub}/org/pets"
    assert refused.startswith("taken/pets cannot be uploaded: ")
    assert "\n" not in refused
    assert {"README.md", "tickets.safetensors"} <= Hub.files.keys()
    assert b"license: mit" in Hub.files["README.md"]
    assert b"private" in next(body for path, _, body in Hub.asked if path == "/api/repos/create")
    assert {token for path, token, _ in Hub.asked if "/pets/" in path} == {"Bearer hf_secret"}
    assert "hf_secret" not in made.stdout + made.stderr
    assert not Path(tmp_path, "README.md").exists()
