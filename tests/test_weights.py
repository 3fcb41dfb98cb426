"""Published weights: the catalogue, fetching against a server that fails in every way, adopting, licences, hints."""

from __future__ import annotations

import hashlib
import io
import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from upsr.cli import main
from upsr.config.load import read_yaml
from upsr.errors import UpsrError
from upsr.weights import catalogue
from upsr.weights.catalogue import FOLDER, Entry, File, Source, entries_of, fetch_hint, read_catalogue
from upsr.weights.fetch import Network, adopt_file, fetch_file, fetch_repository
from upsr.weights.lock import Lock

ROOT = Path(__file__).parents[1]
PATIENCE = 0.15
FAULTS = ["cut", "stall", "truncate", "redirect", "html", "flip", 403, 404, 429, 500]


class Server:
    """Serves ``files`` by the last part of the path, with ranges; each file has a list of faults, one a request."""

    def __init__(self):
        self.files, self.faults, self.ranges, self.types = {}, {}, [], {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                """Stays silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.base = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request):
        request.close_connection = True
        name = request.path.rpartition("/")[2]
        data = self.files.get(name)
        queue = self.faults.get(name, [])
        fault = queue.pop(0) if queue else None
        code = 404 if data is None else fault if isinstance(fault, int) else None
        if code:
            request.send_response(code)
            request.send_header("Content-Length", "0")
            request.send_header("Retry-After", "0")
            request.end_headers()
            return
        if fault == "redirect":
            request.send_response(302)
            request.send_header("Location", f"{self.base}/elsewhere/{name}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if fault == "html":  # every second page lies about its type, too
            body = b"<!DOCTYPE html><html>Too many users</html>"
            kind = "text/html" if len(queue) % 2 else "application/octet-stream"
            self.send(request, 200, body, {"Content-Type": kind})
            return
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        start = 0
        if (wanted := request.headers.get("Range")) and request.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.ranges.append((name, start))
        if fault == "flip":
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        if start >= len(data):
            self.send(request, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        body = data[start:]
        headers = {"ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault == "truncate":  # it states the wrong length
            body = body[: max(len(body) // 2, 1)]
        sent = body[: len(body) // 2] if fault in ("cut", "stall") else body
        self.send(request, 206 if start else 200, sent, headers, length=len(body))
        if fault == "stall":
            time.sleep(2 * PATIENCE)

    @staticmethod
    def send(request, code, body, headers, length=None):
        try:
            request.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
                request.send_header(key, value)
            request.end_headers()
            request.wfile.write(body)
            request.wfile.flush()
        except OSError:
            pass  # the client has gone

    def network(self):
        return Network(timeout=PATIENCE, attempts=2, pause=0.0, github=self.base)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def torch_file(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.randn(128, 128, generator=torch.Generator().manual_seed(seed))}, buffer)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


GITHUB = [Source(github="owner/repository v1")]


def fetch(server, name, file, folder, sources=GITHUB, report=lambda line: None):
    return fetch_file(name, file, sources, folder, server.network(), report)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".part", ".version"))]


def test_two_hundred_faults_over_ten_files_let_no_wrong_file_in(server, tmp_path):
    random.seed(21)
    files = {f"w{number}.pth": torch_file(number) for number in range(10)}
    server.files = dict(files)
    names = [name for name in files for _ in range(20)]
    for name in names:
        server.faults.setdefault(name, []).append(random.choice(FAULTS))
    assert sum(map(len, server.faults.values())) == 200
    failures = []
    while any(server.faults.values()):
        for number, (name, data) in enumerate(files.items()):
            try:
                fetch(server, name, facts_of(number, data), tmp_path)
            except UpsrError as error:
                failures.append(str(error))
                assert not (tmp_path / name).exists()
            else:
                assert (tmp_path / name).read_bytes() == data
                (tmp_path / name).unlink()
                (tmp_path / "weights.lock.json").unlink()
    for number, (name, data) in enumerate(files.items()):
        fetch(server, name, facts_of(number, data), tmp_path)
        assert (tmp_path / name).read_bytes() == data
    assert len(failures) > 10
    assert not any("\n" in line for line in failures)
    assert len(server.ranges) > 10
    assert leftovers(tmp_path) == []


def facts_of(number: int, data: bytes) -> File:
    """Every second file has no known digest: the checksums inside it count."""
    return File(sha256=digest(data), size=len(data)) if number % 2 else File()


def test_a_cut_file_is_resumed_by_the_next_run(server, tmp_path):
    data = torch_file()
    server.files["a.pth"] = data
    server.faults["a.pth"] = ["cut", 403]
    with pytest.raises(UpsrError, match="no source gave the right file"):
        fetch(server, "a.pth", File(), tmp_path)
    assert not (tmp_path / "a.pth").exists()
    assert leftovers(tmp_path)
    fetch(server, "a.pth", File(), tmp_path)
    assert (tmp_path / "a.pth").read_bytes() == data
    assert 0 < server.ranges[-1][1] <= len(data) // 2
    assert leftovers(tmp_path) == []


def test_a_part_of_an_older_version_is_not_continued(server, tmp_path):
    server.files["a.pth"], server.faults["a.pth"] = torch_file(1), ["cut", 403]
    with pytest.raises(UpsrError):
        fetch(server, "a.pth", File(), tmp_path)
    server.files["a.pth"] = torch_file(2)
    fetch(server, "a.pth", File(), tmp_path)
    assert (tmp_path / "a.pth").read_bytes() == torch_file(2)
    assert server.ranges == []


def test_the_next_source_is_tried_and_the_first_is_named(server, tmp_path):
    server.files["b.pth"] = torch_file()
    lines = []
    sources = [*GITHUB, Source(address=f"{server.base}/b.pth")]
    said = fetch(server, "a.pth", File(sha256=digest(torch_file())), tmp_path, sources, lines.append)
    assert "address" in said
    assert len(lines) == 1
    assert "owner/repository v1" in lines[0]
    assert "404" in lines[0]


def test_without_a_network_one_line_says_so(tmp_path):
    lines = []
    network = Network(timeout=PATIENCE, attempts=1, pause=0.0, github="http://127.0.0.1:9")
    with pytest.raises(UpsrError, match="download it yourself"):
        fetch_file("a.pth", File(), GITHUB, tmp_path, network, lines.append)
    assert len(lines) == 1
    assert "no connection" in lines[0]


@pytest.mark.parametrize("body", [b"not weights at all", b"<html>quota</html>", torch_file()[:-200]])
def test_what_is_no_weight_file_is_refused_where_no_digest_is_known(server, tmp_path, body):
    server.files["a.pth"] = body
    with pytest.raises(UpsrError):
        fetch(server, "a.pth", File(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_later_fetch_must_agree_with_the_lock_file(server, tmp_path):
    server.files["a.safetensors"] = save({"w": torch.ones(3)})
    fetch(server, "a.safetensors", File(), tmp_path)
    assert Lock(tmp_path).digest("a.safetensors") == digest(server.files["a.safetensors"])
    (tmp_path / "a.safetensors").unlink()
    server.files["a.safetensors"] = save({"w": torch.zeros(3)})
    with pytest.raises(UpsrError):
        fetch(server, "a.safetensors", File(), tmp_path)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_damaged_lock_file_is_named(tmp_path):
    (tmp_path / "weights.lock.json").write_text("{")
    with pytest.raises(UpsrError, match=r"weights\.lock\.json: damaged"):
        Lock(tmp_path)


def test_drive_goes_through_gdown(server, tmp_path, monkeypatch):
    data, asked = torch_file(), []

    def download(id, output, **how):
        asked.append((id, how["resume"]))
        Path(output).write_bytes(data)

    listed = [SimpleNamespace(id="inside", path="folder/a.pth")]
    module = SimpleNamespace(download=download, download_folder=lambda **how: listed)
    monkeypatch.setitem(sys.modules, "gdown", module)
    fetch(server, "a.pth", File(), tmp_path, [Source(drive_folder="x")])
    fetch(server, "b.pth", File(), tmp_path, [Source(drive_file="y")])
    assert asked == [("inside", True), ("y", True)]
    assert (tmp_path / "a.pth").read_bytes() == data
    monkeypatch.setitem(sys.modules, "gdown", None)
    lines = []
    with pytest.raises(UpsrError):
        fetch(server, "c.pth", File(), tmp_path, [Source(drive_file="y")], lines.append)
    assert "upsr[fetch]" in lines[0]


def test_the_hub_goes_through_its_own_library(server, tmp_path, monkeypatch):
    import huggingface_hub

    cached = tmp_path / "cached"
    cached.write_bytes(torch_file())
    asked = []
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **how: asked.append((args, how)) or cached)
    fetch(server, "a.pth", File(), tmp_path / "to", [Source(hub="user/name")])
    assert asked[0][0] == ("user/name", "a.pth")
    assert asked[0][1]["endpoint"] == "http://mirror"
    assert cached.is_file()
    assert (tmp_path / "to/a.pth").read_bytes() == cached.read_bytes()


def test_what_a_person_downloaded_is_checked_alike(tmp_path):
    given = tmp_path / "downloads" / "renamed.pth"
    given.parent.mkdir()
    given.write_bytes(torch_file())
    with pytest.raises(UpsrError, match=r"is not a\.pth: sha256"):
        adopt_file(given, "a.pth", File(sha256="0" * 64), tmp_path / "to", print)
    assert list((tmp_path / "to").iterdir()) == []
    adopt_file(given, "a.pth", File(), tmp_path / "to", print)
    assert (tmp_path / "to/a.pth").read_bytes() == given.read_bytes()


@pytest.fixture
def small_catalogue(monkeypatch):
    entries = {"Net": Entry(files={"net.pth": File()}, sources=[Source(address="http://127.0.0.1:9/net.pth")],
                            licence="some", noncommercial=True, used_by=["Net-4"])}  # fmt: skip
    monkeypatch.setattr("upsr.commands.weights.read_catalogue", lambda: entries)
    monkeypatch.setattr("upsr.weights.catalogue.read_catalogue", lambda: entries)


def test_the_command_asks_for_the_licence_adopts_finds_and_verifies(tmp_path, capsys, small_catalogue):
    downloads, to = tmp_path / "downloads", ["--to", str(tmp_path / "to")]
    downloads.mkdir()
    (downloads / "net.pth").write_bytes(torch_file())
    assert main(["weights", "where", "Net", *to]) == 1
    assert main(["weights", "fetch", "net-4", "--from", str(downloads), *to]) == 2
    assert "--accept-licence" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
    assert main(["weights", "fetch", "Net", "--from", str(downloads), "--accept-licence", *to]) == 0
    assert "licence: some" in capsys.readouterr().out
    assert main(["weights", "fetch", "Net", *to]) == 0  # accepted before, and here
    assert main(["weights", "where", "Net", *to]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "to/net.pth")
    assert main(["weights", "verify", "Net", *to]) == 0
    assert main(["weights", "list", *to]) == 0
    (tmp_path / "to/net.pth").write_bytes(torch_file(1))
    assert main(["weights", "verify", "Net", *to]) == 2
    assert json.loads((tmp_path / "to/weights.lock.json").read_text())["accepted"] == ["Net"]


def test_a_downloaded_file_is_not_taken_for_another(tmp_path, capsys):
    to, given = ["--to", str(tmp_path / "to"), "--accept-licence"], tmp_path / "autoencoder_vq_f4.pth"
    given.write_bytes(torch_file())
    assert main(["weights", "fetch", "SinSR-1", "--from", str(given), *to]) == 2  # the autoencoder alone is no SinSR
    assert "there is no SinSR_v1.pth" in capsys.readouterr().err
    assert not (tmp_path / "to/SinSR_v1.pth").exists()
    assert (tmp_path / "to/autoencoder_vq_f4.pth").is_file()
    student = given.rename(tmp_path / "student.pth")
    student.write_bytes(torch_file(1))
    assert main(["weights", "fetch", "SinSR-1", "--from", str(student), *to]) == 0
    assert (tmp_path / "to/SinSR_v1.pth").read_bytes() == torch_file(1)
    assert (tmp_path / "to/autoencoder_vq_f4.pth").read_bytes() == torch_file()


def test_the_catalogue_names_methods_that_there_are_and_no_entry_twice():
    known = {path.stem for path in (ROOT / "options/methods").glob("*.yml")} | {"DM-SR"}
    entries = read_catalogue()
    files = [file for entry in entries.values() if entry.repository is None for file in entry.files]
    assert len(files) == len(set(files))
    for name, entry in entries.items():
        assert set(entry.used_by) <= known, name
        assert set(entry.needs) <= set(entries), name
        assert bool(entry.sources) != bool(entry.repository), name
    assert list(entries_of("sinsr-1")) == ["ResShift-autoencoder", "SinSR"]
    with pytest.raises(UpsrError, match="did you mean 'RealESRGAN'"):
        entries_of("RealESRGN")


def test_option_files_and_methods_find_the_fetched_files():
    paths = [read_yaml(ROOT / f"options/methods/{name}.yml")["make"]["path"] for name in ("BSRGAN", "ESRGAN", "SwinIR")]
    assert [fetch_hint([path]).rpartition(" ")[2] for path in paths] == ["BSRGAN", "ESRGAN", "SwinIR-L"]
    assert fetch_hint(["experiments/mine.pth"]) == ""
    assert fetch_hint([FOLDER / "stablesr/conditioning.safetensors"]).endswith("StableSR-512")


def test_a_missing_weight_names_the_command(tmp_path, capsys, monkeypatch):
    from upsr.evaluation.entries import ENTRIES, MissingWeightsError, make_ready

    monkeypatch.chdir(tmp_path)
    for name in ("UPSR-5", "DASR"):
        with pytest.raises(MissingWeightsError, match=f"upsr weights fetch {name.partition('-')[0]}"):
            make_ready(ENTRIES.read(name), torch.device("cpu"), None)
    assert Path("experiments/pretrained_models") == catalogue.FOLDER


def serve_answers(server, name, answers):
    """Gives ``answers`` (status, headers, body, stated length) one a request, then the file itself."""
    usual, queue = server.answer, list(answers)

    def answer(request):
        if not queue or not request.path.endswith(name):
            return usual(request)
        code, headers, body, length = queue.pop(0)
        request.close_connection = True
        server.send(request, code, body, headers, length)

    server.answer = answer
    return queue


def test_a_server_that_cuts_and_then_gives_a_wrong_part_is_given_up(server, tmp_path):
    data = server.files["a.pth"] = torch_file()
    half = (200, {"ETag": '"1"'}, data[: len(data) // 2], len(data))
    queue = serve_answers(server, "a.pth", [half, (206, {"Content-Range": "bytes 0-9/10"}, b"0" * 10, 10)] * 20)
    with pytest.raises(UpsrError, match="no source gave the right file"):
        fetch(server, "a.pth", File(), tmp_path)
    assert len(queue) > 30


def test_a_part_of_another_version_is_not_added(server, tmp_path):
    first, second = (save({"w": torch.full((256, 256), value)}) for value in (1.0, 2.0))
    server.files["a.safetensors"] = second
    half = 1 << 17  # whole blocks: all of it is kept
    rest = {"ETag": '"2"', "Content-Range": f"bytes {half}-{len(second) - 1}/{len(second)}"}
    serve_answers(
        server,
        "a.safetensors",
        [(200, {"ETag": '"1"'}, first[:half], len(first)), (206, rest, second[half:], len(second) - half)],
    )
    fetch(server, "a.safetensors", File(), tmp_path)
    assert (tmp_path / "a.safetensors").read_bytes() == second


@pytest.mark.parametrize(
    ("code", "headers", "said"),
    [
        (302, {"Location": "http://[::1/x"}, "no connection"),
        (302, {"Location": "http://.example/x"}, "no connection"),
        (302, {"Location": "http://" + "a" * 70 + ".example/x"}, "no connection"),
        (302, {"Location": "ftp://example.org/x"}, "no connection"),
        (302, {"Location": "a.pth"}, "redirects without end"),
        (429, {"Retry-After": "\xb2"}, "HTTP 429"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_line(server, tmp_path, code, headers, said):
    server.files["a.pth"], lines = torch_file(), []
    serve_answers(server, "a.pth", [(code, {**headers, "Connection": "close"}, b"", 0)] * 100)
    with pytest.raises(UpsrError):
        fetch(server, "a.pth", File(), tmp_path, report=lines.append)
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("length", ["abc", ""])
def test_a_length_that_is_no_number_is_ignored(server, tmp_path, length):
    data = server.files["a.pth"] = torch_file()
    serve_answers(server, "a.pth", [(200, {}, data, length)])
    fetch(server, "a.pth", File(), tmp_path)
    assert (tmp_path / "a.pth").read_bytes() == data


def test_without_a_network_the_cause_stands_in_the_line(tmp_path, monkeypatch):
    lines = []
    network = Network(timeout=PATIENCE, attempts=1, pause=0.0, github="http://127.0.0.1:9")
    sources = [Source(github="owner/" + "long" * 40 + " v1")]
    with pytest.raises(UpsrError, match=r"--from FILE --to "):
        fetch_file("a.pth", File(), sources, tmp_path, network, lines.append)
    assert "refused" in lines[0]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    address = [Source(address="https://127.0.0.1:9/a.pth")]
    with pytest.raises(UpsrError, match="no source"):
        fetch_file("a.pth", File(), address, tmp_path, network, lines.append)
    assert "none.pem" in lines[1]


def test_a_hub_that_does_not_answer_is_not_a_missing_file(server, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(*_, **__):
        raise LocalEntryNotFoundError("An error happened") from OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    lines = []
    with pytest.raises(UpsrError):
        fetch(server, "a.pth", File(), tmp_path, [Source(hub="user/name")], lines.append)
    assert lines == ["a.pth: hub user/name: no connection (Name or service not known)"]


def test_a_wrong_file_does_not_stay_in_the_hubs_cache(server, tmp_path, monkeypatch):
    import huggingface_hub

    blob, link = tmp_path / "blob", tmp_path / "link"
    blob.write_bytes(b"damaged")
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(link))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(link))
    with pytest.raises(UpsrError):
        fetch(server, "a.pth", File(), tmp_path / "to", [Source(hub="user/name")])
    assert not blob.exists()


def test_a_repository_without_weights_is_not_fetched(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("upsr.weights.fetch.hub_folder", lambda *_, **__: tmp_path)
    with pytest.raises(UpsrError, match="gave no weight file"):
        fetch_repository(Entry(repository="user/name"), tmp_path / "to")
    with pytest.raises(UpsrError, match=r"gave no unet/x\.safetensors"):
        fetch_repository(Entry(repository="user/name", files={"unet/x.safetensors": File()}), tmp_path / "to")


@pytest.mark.parametrize("stdin", [None, "closed"])
def test_a_licence_that_cannot_be_asked_about_is_a_line(tmp_path, capsys, small_catalogue, monkeypatch, stdin):
    terminal = io.StringIO("")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal if stdin else None)
    assert main(["weights", "fetch", "Net", "--to", str(tmp_path / "to")]) == 2
    assert ("was not accepted" if stdin else "--accept-licence") in capsys.readouterr().err


def test_names_are_suggested_in_any_case_and_shipped_ones_known(capsys):
    for asked, said in (
        ("realesrgn", "did you mean 'RealESRGAN'"),
        ("real-esrgan", "did you mean 'RealESRGAN'"),
        ("models/RealESRGAN_x4plus.pt", "did you mean 'RealESRGAN_x4plus.pth'"),
        ("tiny-1", "comes with the package"),
        ("Tiny", "--weights tiny names it"),
        ("zzzzzzzz", "zzzzzzzz: no published weights of this name; see upsr weights list"),
    ):
        assert main(["weights", "verify", asked]) == 2
        assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_looked_into_is_a_line(capsys):
    for action in (["list"], ["where", "RealESRGAN"], ["verify", "RealESRGAN"]):
        assert main(["weights", *action, "--to", "x" * 300]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_is_not_here_or_wrong_names_the_command_with_its_folder(tmp_path, capsys, small_catalogue):
    to = ["--to", str(tmp_path)]
    main(["weights", "where", "Net", *to])
    main(["weights", "verify", "Net", *to])
    (tmp_path / "net.pth").write_bytes(b"<html>")
    main(["weights", "verify", "Net", *to])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.endswith(f"upsr weights fetch Net --to {tmp_path}") for line in lines)


@pytest.mark.parametrize("text", ['{"files": {"a": 5}}', '{"files": {"a": {}}}', "[]"])
def test_a_lock_file_of_another_form_is_named(tmp_path, text):
    (tmp_path / "weights.lock.json").write_text(text)
    with pytest.raises(UpsrError, match=r"weights\.lock\.json: damaged"):
        Lock(tmp_path)


def test_of_a_name_in_several_folders_the_least_deep_is_taken(tmp_path, capsys, small_catalogue):
    for folder, data in ((tmp_path / "in/old", b"<html>"), (tmp_path / "in", torch_file())):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "net.pth").write_bytes(data)
    given = ["--from", str(tmp_path / "in"), "--accept-licence", "--to", str(tmp_path / "to")]
    assert main(["weights", "fetch", "Net", *given]) == 0
    (tmp_path / "in/net.pth").rename(tmp_path / "in/net (1).pth")
    (tmp_path / "in/old/net.pth").unlink()
    (tmp_path / "to/net.pth").unlink()
    assert main(["weights", "fetch", "Net", *given]) == 2
    assert "there is no net.pth in it; give what you downloaded that name" in capsys.readouterr().err
