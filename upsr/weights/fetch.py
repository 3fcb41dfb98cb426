"""Weight files from their sources: resumed, checked, and under their names only when whole."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from upsr.atomic import held, writable_folder
from upsr.errors import UpsrError
from upsr.weights.catalogue import Entry, File, Source, to_option
from upsr.weights.hub import hub_folder
from upsr.weights.lock import Lock, check_file

_BLOCK = 1 << 14  # bytes; what is less is lost when a connection breaks
_REMEDIES = {401: "it asks for a login", 403: "access is refused there", 404: "it is not there any more"}
_TRANSIENT = (408, 425, 429)


@dataclass(frozen=True)
class Network:
    """How sources are reached: seconds without a byte, attempts without progress, seconds between attempts."""

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 2.0
    github: str = "https://github.com"


class _FailedError(Exception):
    """A source did not give the file; ``again`` where another attempt may."""

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


def fetch_file(
    name: str, file: File, sources: list[Source], folder: Path, network: Network, report: Callable[[str], None]
) -> str:
    """A file at ``folder/name``, from the first source that gives the right one; returns that source and what was checked.

    What a source has given of a file stays in a hidden part file beside the target, and the next run goes on from there.

    Args:
        report: called with a line for each source that failed, and where another process fetches the file.

    Raises:
        UpsrError: a file that is there is another one, or no source gave the right one.
    """
    target = folder / name
    if not target.is_file():
        with _alone(target, report):
            if not target.is_file():  # nor has another process fetched it meanwhile
                return _fetched(target, name, file, sources, Lock(folder), network, report)
    return f"is here already ({_kept(target, name, file, Lock(folder), 'found here')})"


def adopt_file(given: Path, name: str, file: File, folder: Path, report: Callable[[str], None]) -> str:
    """A copy at ``folder/name`` of a file that a person downloaded; returns what was checked.

    Raises:
        UpsrError: it is another file.
    """
    target = folder / name
    if not target.is_file():
        with _alone(target, report):
            if not target.is_file():
                return f"from {given} ({_copied(given, target, name, file, Lock(folder))})"
    return f"is here already ({_kept(target, name, file, Lock(folder), 'found here')})"


@contextlib.contextmanager
def _alone(target: Path, report: Callable[[str], None]) -> Iterator[None]:
    """No other process fetches the file meanwhile: both would write its part file."""
    writable_folder(target.parent)
    with held(target, lambda: report(f"{target.name}: another process is fetching it; waiting for it")):
        yield


def _fetched(
    target: Path,
    name: str,
    file: File,
    sources: list[Source],
    lock: Lock,
    network: Network,
    report: Callable[[str], None],
) -> str:
    for source in sources:
        try:
            return f"from {source} ({_from_source(source, target, name, file, lock, network)})"
        except _FailedError as error:
            report(f"{name}: {source}: {error}")
        except OSError as error:
            raise UpsrError(f"{target}: cannot be written ({error.strerror or error})") from None
    raise UpsrError(
        f"{name}: no source gave the right file; try again later, or download it yourself and: "
        f"upsr weights fetch {shlex.quote(name)} --from FILE{to_option(target.parent)}"
    )


def _from_source(source: Source, target: Path, name: str, file: File, lock: Lock, network: Network) -> str:
    part = _part(target, source)
    resumed = part.is_file()
    _GIVES[_kind(source)](source, name, part, network)
    try:
        return _place(part, target, name, file, lock, str(source))
    except UpsrError as error:
        _drop(part)
        _forget(source, name)
        if not resumed:
            raise _FailedError(str(error)) from None
    # Once more from the beginning: what was resumed may be damaged.
    return _from_source(source, target, name, file, lock, network)


def _copied(given: Path, target: Path, name: str, file: File, lock: Lock) -> str:
    part = target.with_name(f".{target.name}.adopted.part")
    try:
        shutil.copyfile(given, part)
        return _place(part, target, name, file, lock, str(given))
    except OSError as error:
        raise UpsrError(f"{given}: cannot be copied to {target} ({error.strerror or error})") from None
    except UpsrError as error:
        raise UpsrError(f"{given}: is not {name}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def fetch_repository(entry: Entry, folder: Path) -> Path:
    """The folder of an entry that is a repository of the hub, with checked files.

    Raises:
        UpsrError: the hub did not give it, or a file is another one.
    """
    assert entry.repository is not None
    more = {} if entry.folder is None else {"local_dir": str(writable_folder(folder / entry.folder))}
    if endpoint := os.environ.get("HF_ENDPOINT"):
        more["endpoint"] = endpoint
    found = hub_folder(entry.repository, **more)
    files = repository_files(entry, found)
    if missing := sorted(entry.files.keys() - files) or ([] if files else ["weight file"]):
        raise UpsrError(f"{entry.repository}: the Hugging Face Hub gave no {', '.join(missing)}; try again later")
    for file, path in files.items():  # the cache's own file, not its link, is to be removed if it is wrong
        facts = entry.files.get(file, File())
        _kept(path.resolve(), f"{entry.repository}/{file}", facts, Lock(folder), entry.repository)
    return found


def repository_files(entry: Entry, found: Path) -> dict[str, Path]:
    """Weight files in the folder of a repository, by their paths in it."""
    files = [path for ending in ("*.safetensors", "*.bin") for path in sorted(found.rglob(ending))]
    here = {path.relative_to(found).as_posix(): path for path in files}
    return here | {file: found / file for file in entry.files if (found / file).is_file()}


def _kept(path: Path, name: str, file: File, lock: Lock, source: str) -> str:
    try:
        digest, checked = check_file(path, name, file, lock)
    except UpsrError as error:
        raise UpsrError(f"{path}: {error}; remove it and fetch again") from None
    if lock.digest(name) is None:
        lock.add(name, digest, path.stat().st_size, source)
    return checked


def _place(part: Path, target: Path, name: str, file: File, lock: Lock, source: str) -> str:
    """Checks a whole file, records it and gives it its name."""
    digest, checked = check_file(part, name, file, lock)
    lock.add(name, digest, part.stat().st_size, source)
    os.replace(part, target)
    _drop(part)
    return checked


def _part(target: Path, source: Source) -> Path:
    """The part file, one for each source: their files may differ."""
    return target.with_name(f".{target.name}.{hashlib.sha256(str(source).encode()).hexdigest()[:8]}.part")


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _kind(source: Source) -> str:
    return next(iter(source.model_dump(exclude={"named"}, exclude_none=True)))


def _github(source: Source, name: str, part: Path, network: Network) -> None:
    repository, _, tag = str(source.github).partition(" ")
    _download(f"{network.github}/{repository}/releases/download/{tag}/{quote(source.named or name)}", part, network)


def _address(source: Source, name: str, part: Path, network: Network) -> None:
    _download(str(source.address), part, network)


def _hub(source: Source, name: str, part: Path, network: Network) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        found = hf_hub_download(str(source.hub), source.named or name, endpoint=endpoint, etag_timeout=network.timeout)
    except LocalEntryNotFoundError as error:  # one of those below, for a hub that does not answer
        raise _FailedError(f"no connection ({_cause(error.__cause__ or error)})") from None
    except EntryNotFoundError:
        raise _FailedError("the repository has no such file") from None
    except Exception as error:  # what is wrong with a network has many names
        raise _FailedError(_short(error)) from None
    shutil.copyfile(found, part)


def _forget(source: Source, name: str) -> None:
    """Removes a wrong file from the hub's cache, which would give it again: only lengths are checked there."""
    if source.hub is None:
        return
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.hub, source.named or name)
    if isinstance(found, str):
        Path(found).resolve().unlink(missing_ok=True)


def _drive_file(source: Source, name: str, part: Path, network: Network) -> None:
    _from_drive(str(source.drive_file), part, network)


def _drive_folder(source: Source, name: str, part: Path, network: Network) -> None:
    try:
        listed = _gdown().download_folder(
            id=source.drive_folder, quiet=True, skip_download=True, timeout=network.timeout
        )
    except Exception as error:
        raise _FailedError(_cause(error)) from None
    found = next((file.id for file in listed if Path(file.path).name == (source.named or name)), None)
    if found is None:
        raise _FailedError("the folder has no such file")
    _from_drive(found, part, network)


def _from_drive(identity: str, part: Path, network: Network) -> None:
    retries = network.attempts - 1
    try:
        _gdown().download(
            id=identity, output=str(part), quiet=True, resume=True, timeout=network.timeout, retries=retries
        )
    except Exception as error:  # gdown's own, and those of its network library
        raise _FailedError(_cause(error)) from None
    if not part.is_file():
        raise _FailedError("Google Drive gave no file")


def _gdown() -> Any:
    try:
        return importlib.import_module("gdown")
    except ImportError:
        raise _FailedError("Google Drive needs gdown: pip install 'upsr[fetch]'") from None


_GIVES: dict[str, Callable[[Source, str, Path, Network], None]] = {
    "github": _github,
    "hub": _hub,
    "drive_file": _drive_file,
    "drive_folder": _drive_folder,
    "address": _address,
}


def _download(address: str, part: Path, network: Network) -> None:
    """The whole of an address in ``part``; attempts are counted from the last progress."""
    attempt, furthest = 0, _came(part)
    while True:
        try:
            _request(address, part, network)
            return
        except _FailedError as error:
            # More than ever, not than before: a server that cuts and then gives a wrong part would be asked for ever.
            attempt = 0 if _came(part) > furthest else attempt + 1
            furthest = max(furthest, _came(part))
            if not error.again or attempt >= network.attempts:
                raise
            time.sleep(network.pause * attempt if error.wait is None else min(error.wait, 60.0))


def _came(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _request(address: str, part: Path, network: Network) -> None:
    import requests  # here: most commands fetch nothing
    from urllib3.exceptions import HTTPError

    validator = _validator(part)
    start = _came(part) if validator.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator.read_text(encoding="utf-8")}
    try:
        with requests.get(address, headers=headers, stream=True, timeout=network.timeout) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{start}":
                return  # all of it was fetched before
            if answer.status_code == 416:
                _drop(part)
                raise _FailedError("what was fetched before is not a part of the file", again=True)
            _refuse(answer)
            start = start if answer.status_code == 206 else 0
            length = answer.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            version = answer.headers.get("ETag", "")
            if not start:
                _drop(part)
                if version and not version.startswith("W/"):
                    validator.write_text(version, encoding="utf-8")
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                _drop(part)
                raise _FailedError("another part of the file than asked for", again=True)
            elif version and version != headers["If-Range"]:
                _drop(part)
                raise _FailedError("a part of another version of the file", again=True)
            with part.open("ab") as file, _bar(part, start, total) as advance:
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    advance(len(block))
    except requests.Timeout:
        raise _FailedError(f"nothing came for {network.timeout:g} seconds", again=True) from None
    except requests.TooManyRedirects:
        raise _FailedError("it redirects without end", again=True) from None
    except (requests.RequestException, HTTPError, ValueError) as error:  # the latter two of bad addresses in redirects
        raise _FailedError(f"no connection, or it broke off ({_cause(error)})", again=True) from None
    except OSError as error:
        if error.errno is not None:  # of the disk; requests' own, of a missing file of certificates, has none
            raise
        raise _FailedError(f"no connection ({_short(error)})") from None
    if total is not None and part.stat().st_size != total:
        raise _FailedError(f"{part.stat().st_size} of {total} bytes came", again=True)


def _refuse(answer: Any) -> None:
    """Raises for an answer without the file."""
    code = answer.status_code
    if code >= 400:
        again = code >= 500 or code in _TRANSIENT
        wait = answer.headers.get("Retry-After", "")
        remedy = _REMEDIES.get(code, "try again later" if again else "refused")
        raise _FailedError(f"HTTP {code}, {remedy}", again=again, wait=float(wait) if wait.isdecimal() else None)
    if "text/html" in answer.headers.get("Content-Type", ""):
        raise _FailedError("a page (HTML) in place of the file")


@contextlib.contextmanager
def _bar(part: Path, start: int, total: int | None) -> Iterator[Callable[[int], Any]]:
    from tqdm import tqdm

    name = part.name[1:].rpartition(".part")[0].rpartition(".")[0]
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name[:40], disable=None) as bar:
        yield bar.update


def _cause(error: BaseException) -> str:
    """The innermost cause: what requests and urllib3 say around it is long, and hides it."""
    around = (getattr(error, "reason", None), *error.args)
    inner = next((found for found in around if isinstance(found, BaseException)), None)
    return _short(error) if inner is None else _cause(inner)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
