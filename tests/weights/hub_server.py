"""The few addresses of the Hugging Face Hub that huggingface_hub needs to make, fill and read a repository."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["COMMIT", "HubServer"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)


class HubServer(ThreadingHTTPServer):
    """Repositories by name; .safetensors files arrive as large files do, others within the commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer_json(self, document: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(document).encode(), Content_Type="application/json")

    def _body(self) -> bytes:
        self.server.requests.append(f"{self.command} {self.path}")
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._body()
        owner, name, resolve, revision, file = [*self.path.strip("/").split("/", 4), "", "", "", "", ""][:5]
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None or repository.private or resolve != "resolve":
            self._answer(
                401 if repository is None else 403, X_Error_Code="RepoNotFound" if repository is None else "GatedRepo"
            )
        elif revision not in ("main", COMMIT):
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif file not in repository.files:
            self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            content = repository.files[file]
            digest = hashlib.sha256(content).hexdigest()
            self._answer(200, content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")

    def do_PUT(self) -> None:
        content = self._body()
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._answer(200)

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(part for part in (wanted.get("organization"), wanted["name"]) if part)
            if name.startswith("forbidden/"):
                self._answer_json({"error": "You don't have the rights to create a model under this namespace"}, 403)
                return
            is_private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.server.repositories[name] = Repository(is_private)
            self._answer_json({"url": f"{self.server.address}/{name}", "id": name, "name": name})
        elif self.path == "/api/validate-yaml":
            self._answer_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
            entries = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self._answer_json({"files": entries})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/upload"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer_json(
                {
                    "transfer": "basic",
                    "objects": [{"oid": o["oid"], "size": o["size"], "actions": o["actions"]} for o in objects],
                }
            )
        elif "/commit/" in self.path:
            repository = self.server.repositories["/".join(self.path.split("/")[3:5])]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    repository.files[value["path"]] = self.server.large[value["oid"]]
            url = f"{self.server.address}/{'/'.join(self.path.split('/')[3:5])}/commit/{COMMIT}"
            self._answer_json({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self._answer(404)
