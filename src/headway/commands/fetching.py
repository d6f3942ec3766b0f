"""`python -m headway fetch`: a published data set's files, checked, and under DVC as `dvc import-url` puts them.

Enters: a name of public.PUBLIC. Leaves: the files, a .dvc file beside each, and text: what to do next. DVC
alone would start an interrupted download over, and takes what the address serves for what was published.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from headway.data.importers.known import CHECKSUMS, digest
from headway.data.importers.public import PUBLIC
from headway.errors import InputError

CHUNK = 2**20
MAX_BYTES = 2**30  # ten times the largest of the files
TIMEOUT = 60.0  # seconds without a byte
PARTIAL, BEYOND = 206, 416  # HTTP: a part of the file; nothing is left to send


def list_public() -> str:
    """The data sets there are."""
    width = max(map(len, PUBLIC))
    return "".join(f"{name:<{width}}  {public.title}\n" for name, public in PUBLIC.items())


def fetch_data(name: str, out: Path) -> str:
    """Fetch what is not there yet, and describe.

    Raises: InputError for unknown names, files that are not the published ones, downloads that break off (the same
        command continues them), and whatever DVC refuses.
    """
    if name not in PUBLIC:
        raise InputError(f"no data set {name!r} to fetch; there are: {', '.join(PUBLIC)}")
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [_fetch(url, folder) for url in PUBLIC[name].files]
    note = PUBLIC[name].note.format(folder=folder)
    following = PUBLIC[name].following.format(folder=folder)
    commands = [*([note] if note else []), f"python -m headway import {following} --name {name}"]
    return "\n".join([*lines, "next:", *(f"  {command}" for command in commands)]) + "\n"


def _fetch(url: str, folder: Path) -> str:
    path = folder / PurePosixPath(urlsplit(url).path).name
    said = "was there already"
    if not path.exists():
        part = _part(path)
        _download(url, part)
        _verify(part, path.name, url)
        part.rename(path)
        said = f"{path.stat().st_size:,} bytes from {url}"
    elif not _is_published(path, path.name):
        raise InputError(f"{path} is there, with other content than the published file; move it away first")
    if not _is_tracked(path):
        _track(url, path)
    return f"{path}: {said}; as published"


def _part(path: Path) -> Path:
    """Where the file is until it is whole."""
    return path.with_name(f".{path.name}.part")


def _download(url: str, part: Path) -> None:
    """Go on with `part`, which holds what came before a break."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            resumed = answer.status == PARTIAL and _first_byte(answer) == have
            with part.open("ab" if resumed else "wb") as file:
                _copy(answer, file, url)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == BEYOND and have:  # all of it came; its checksum will tell
            return
        raise InputError(
            f"{url} answers {error.code} {error.reason}; download the file from another place and "
            "give it to `python -m headway import`"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        have = part.stat().st_size if part.exists() else 0
        raise InputError(
            f"{url} broke off after {have:,} bytes ({error}); the same command goes on from there"
        ) from None


def _copy(answer: Any, file: Any, url: str) -> None:
    length = answer.headers.get("Content-Length")
    left = int(length) if length and length.isdigit() else None
    while chunk := answer.read(CHUNK):
        file.write(chunk)
        left = None if left is None else left - len(chunk)
        if file.tell() > MAX_BYTES:
            file.truncate(0)
            raise InputError(f"{url} sends more than {MAX_BYTES:,} bytes; it is not the published file")
    if left:
        raise ConnectionError(f"{left:,} bytes are due")


def _first_byte(answer: Any) -> int:
    """Of a partial answer: `Content-Range: bytes 100-199/200`."""
    span = (answer.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(span) if span.isdigit() else -1


def _verify(part: Path, name: str, url: str) -> None:
    if _is_published(part, name):
        return
    found, size = digest(part).sha256, part.stat().st_size
    part.unlink()
    raise InputError(
        f"{url} is not the published {name}: {size:,} bytes with SHA-256 {found}; nothing of it was kept. Run the "
        "command again; if it says the same, the address serves another file now"
    )


def _is_published(path: Path, name: str) -> bool:
    found = digest(path)
    return bool({f"sha256:{found.sha256}", f"git:{found.git}"} & set(CHECKSUMS[name.lower()]))


def _is_tracked(path: Path) -> bool:
    """Whether DVC has the file's checksum: it was imported, and committed."""
    note = path.with_name(f"{path.name}.dvc")
    return note.exists() and " md5: " in note.read_text(encoding="utf-8")


def _track(url: str, path: Path) -> None:
    """`dvc import-url` without its download, and the checksum of the file that is there."""
    part = path.rename(_part(path))  # import-url wants its place empty
    try:
        _dvc("import-url", "--no-exec", "--force", url, str(path), path=path)
    finally:
        part.rename(path)
    _dvc("commit", "--quiet", "--force", f"{path}.dvc", path=path)


def _dvc(*arguments: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"]
        raise InputError(f"{path} is there and whole, but `dvc {arguments[0]}` says: {said[0]}")
