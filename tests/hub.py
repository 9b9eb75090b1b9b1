"""A stand-in of the Hugging Face hub on this machine: as much of its interface as the tests use."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def running_hub():
    """Serve repositories kept in memory; yields the server, with `url`, `commits`, `requests`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def reply(self, body=b"", status=200, **headers):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def not_found(self, code):
            self.reply({"error": code}, 404, X_Error_Code=code)

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.requests.append((self.command, self.path, dict(self.headers)))
            if self.path == "/api/repos/create":
                request = json.loads(body)
                name = "/".join(filter(None, (request.get("organization"), request["name"])))
                server.commits.setdefault(name, [])
                self.reply({"url": f"{server.url}/{name}", "id": name, "name": name})
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif self.path.endswith("/preupload/main"):
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self.reply({"files": files})
            elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
                lines = [json.loads(line) for line in body.decode().splitlines()]
                files = dict(server.commits[match[1]][-1][1]) if server.commits[match[1]] else {}
                for line in lines:
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                sha = hashlib.sha1(body).hexdigest()
                server.commits[match[1]].append((sha, files))
                url = f"{server.url}/{match[1]}/commit/{sha}"
                self.reply({"success": True, "commitUrl": url, "commitOid": sha})
            else:
                self.not_found("EntryNotFound")

        def do_GET(self):
            server.requests.append((self.command, self.path, dict(self.headers)))
            path = self.path.split("?")[0]
            if match := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/([^/]+))?", path):
                found = self.commit(match[1], match[3] or "main")
                if found is None:
                    return
                sha, files = found
                if match[2] == "tree":
                    self.reply(
                        [
                            {
                                "type": "file",
                                "path": name,
                                "size": len(content),
                                "oid": hashlib.sha1(content).hexdigest(),
                            }
                            for name, content in files.items()
                        ]
                    )
                else:
                    siblings = [{"rfilename": name} for name in files]
                    self.reply({"id": match[1], "sha": sha, "siblings": siblings})
            elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
                found = self.commit(match[1], match[2])
                if found is None:
                    return
                sha, files = found
                if match[3] not in files:
                    self.not_found("EntryNotFound")
                    return
                content = files[match[3]]
                etag = hashlib.sha1(content).hexdigest()
                self.reply(content, X_Repo_Commit=sha, ETag=f'"{etag}"')
            else:
                self.not_found("EntryNotFound")

        do_HEAD = do_GET

        def commit(self, name, revision):
            commits = server.commits.get(name)
            if not commits:
                self.not_found("RepoNotFound")
                return None
            for sha, files in reversed(commits):
                if revision in ("main", sha):
                    return sha, files
            self.not_found("RevisionNotFound")
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.commits, server.requests = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
