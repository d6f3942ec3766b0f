"""`python -m headway fetch` against a server on this machine, in a project under DVC."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headway.__main__ import main
from headway.commands import fetching
from headway.data.importers import known, public
from headway.errors import InputError

CONTENT = {"city.csv": b"time,a,b\n" + b"2024-01-01,1,2\n" * 4000, "roads.csv": b"from,to,cost\na,b,3\n"}


class Server(ThreadingHTTPServer):
    """Serves CONTENT, in ranges too; breaks off after `limit` bytes of an answer, and notes what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.limit, self.ranges = dict(CONTENT), 10**9, True
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        name, span = self.path.lstrip("/"), self.headers.get("Range", "")
        self.server.asked.append((name, span))
        content = self.server.content.get(name)
        if content is None:
            self.send_error(404)
            return
        first = int(span.removeprefix("bytes=").rstrip("-")) if span and self.server.ranges else 0
        if first >= len(content) and first:
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(content[first : first + self.server.limit])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose files are a data set of the table of public ones."""
    serving = Server()
    files = tuple(f"{serving.address}/{name}" for name in CONTENT)
    found = public.Public(
        title="a city", files=files, following="wide {folder}/city.csv --edges {folder}/roads.csv"
    )
    monkeypatch.setitem(public.PUBLIC, "city", found)
    for name, content in CONTENT.items():
        checksum = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        monkeypatch.setitem(known.CHECKSUMS, name, (f"git:{checksum}",))
    thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    return tmp_path / "data/downloads/city"


@pytest.fixture
def untracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files arrive, without DVC, which takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetching, "_dvc", lambda *arguments, path: None)
    return tmp_path / "data/downloads/city"


def dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def refused(out: Path) -> str:
    with pytest.raises(InputError) as caught:
        fetching.fetch_data("city", out.parent)
    return str(caught.value)


def test_files_arrive_checked_and_under_dvc_and_a_second_call_asks_for_nothing(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "city"]) == 0
    said = capsys.readouterr().out
    assert "data/downloads/city/city.csv: 60,009 bytes from http://127.0.0.1" in said
    assert "  python -m headway import wide data/downloads/city/city.csv --edges" in said
    for name, content in CONTENT.items():
        assert (project / name).read_bytes() == content
        note = (project / f"{name}.dvc").read_text()
        assert f"path: {server.address}/{name}" in note and hashlib.md5(content).hexdigest() in note
    assert "/city.csv" in (project / ".gitignore").read_text()
    (project / "city.csv").unlink()
    dvc("checkout", "-q", "data/downloads/city/city.csv.dvc")
    assert (project / "city.csv").read_bytes() == CONTENT["city.csv"]
    server.asked.clear()
    assert main(["fetch", "city"]) == 0
    assert "city.csv: was there already; as published" in capsys.readouterr().out and not server.asked


def test_a_download_that_broke_off_goes_on_where_it_stopped(untracked: Path, server: Server) -> None:
    server.limit = 1000
    assert "broke off after 1,000 bytes" in refused(untracked)
    assert "broke off after 2,000 bytes" in refused(untracked)
    assert [path.name for path in untracked.iterdir()] == [".city.csv.part"]
    server.limit = 10**9
    fetching.fetch_data("city", untracked.parent)
    assert (untracked / "city.csv").read_bytes() == CONTENT["city.csv"]
    assert server.asked[:3] == [("city.csv", ""), ("city.csv", "bytes=1000-"), ("city.csv", "bytes=2000-")]


def test_a_server_without_ranges_starts_over(untracked: Path, server: Server) -> None:
    server.limit, server.ranges = 1000, False
    refused(untracked)
    server.limit = 10**9
    fetching.fetch_data("city", untracked.parent)
    assert (untracked / "city.csv").read_bytes() == CONTENT["city.csv"]


def test_a_part_that_is_the_whole_file_is_enough(untracked: Path, server: Server) -> None:
    untracked.mkdir(parents=True)
    (untracked / ".city.csv.part").write_bytes(CONTENT["city.csv"])
    fetching.fetch_data("city", untracked.parent)
    assert (untracked / "city.csv").read_bytes() == CONTENT["city.csv"]


def test_another_file_than_the_published_one_is_refused_and_not_kept(untracked: Path, server: Server) -> None:
    server.content["city.csv"] = b"<html>moved</html>"
    said = refused(untracked)
    assert f"{server.address}/city.csv is not the published city.csv: 18 bytes with SHA-256" in said
    assert "nothing of it was kept" in said and not list(untracked.iterdir())


def test_more_than_any_published_file_has_is_refused(
    untracked: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 50_000)
    assert "sends more than 50,000 bytes" in refused(untracked)


def test_a_file_of_the_same_name_is_not_overwritten(untracked: Path, server: Server) -> None:
    untracked.mkdir(parents=True)
    (untracked / "city.csv").write_text("mine")
    assert "city.csv is there, with other content than the published file; move it away" in refused(untracked)
    assert (untracked / "city.csv").read_text() == "mine" and not server.asked


def test_an_address_without_the_file_and_an_unknown_name_are_told(untracked: Path, server: Server) -> None:
    del server.content["city.csv"]
    assert "/city.csv answers 404 Not Found; download the file from another place" in refused(untracked)
    with pytest.raises(InputError, match="no data set 'moon' to fetch; there are: metr-la, pems-bay"):
        fetching.fetch_data("moon", untracked.parent)


def test_without_a_project_the_file_is_kept_and_what_dvc_says_is_told(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "data/city"
    assert (
        "city.csv is there and whole, but `dvc import-url` says: ERROR: you are not inside of a DVC"
        in refused(out)
    )
    assert [path.name for path in out.iterdir()] == ["city.csv"]


@pytest.mark.parametrize("name", public.PUBLIC)
def test_every_public_file_has_an_address_of_its_own_and_a_checksum(name: str) -> None:
    for url in public.PUBLIC[name].files:
        assert url.startswith("https://")
        assert known.CHECKSUMS[url.rpartition("/")[2].lower()]
