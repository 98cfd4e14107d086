from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cultivar_runner import __version__
from cultivar_runner.cli import app
from cultivar_runner.doctor import Finding, check_disk, check_gpus, examine
from tests.support.scripted_server import Call, Reply, ScriptedServer, json_reply, problem

Serve = Callable[[Callable[[Call], Reply]], ScriptedServer]
TRAINER = ("--trainer", "timm=tests.support.scripted_trainer")
runner = CliRunner()


def registering(call: Call) -> Reply:
    if call.headers["authorization"] != "Bearer good-token":
        return problem(401, "UNAUTHORIZED")
    answer = {"runner_id": "r1", "runner_token": f"cvrun_{'a1' * 20}", "timers": {}, "limits": {}}
    return json_reply(answer, 201)


def test_registering_keeps_the_machine_and_hides_the_token(serve: Serve, tmp_path: Path) -> None:
    server = serve(registering)
    arguments = ["register", "--url", server.url, "--state-dir", str(tmp_path), "--name", "box", "--label", "room=1"]
    for _ in range(2):
        result = runner.invoke(app, [*arguments, *TRAINER, "--token", "good-token", "--gpus", "none"])
        assert result.exit_code == 0, result.output
        assert "registered at" in result.output and "cvrun_" not in result.output
    first, second = (call.json for call in server.calls)
    assert first == second
    assert (first["name"], first["labels"]["room"], first["protocol"], first["slots"]) == ("box", "1", 1, 1)
    assert set(first["labels"]) == {"platform", "arch", "room"}
    assert "timm" in first["frameworks"]
    saved = json.loads((tmp_path / "credentials.json").read_text())
    assert list(saved["servers"]) == [server.url]
    assert (tmp_path / "credentials.json").stat().st_mode & 0o077 == 0


def test_a_token_can_come_through_stdin(serve: Serve, tmp_path: Path) -> None:
    arguments = ["register", "--url", serve(registering).url, "--state-dir", str(tmp_path), *TRAINER, "--token-stdin"]
    assert runner.invoke(app, arguments, input="good-token\n").exit_code == 0


def test_a_used_up_token_is_explained(serve: Serve, tmp_path: Path) -> None:
    arguments = ["register", "--url", serve(registering).url, "--state-dir", str(tmp_path), *TRAINER, "--token", "old"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert "ask for a new one" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--url", "http://gpu.example"],
        ["run", "--url", "https://example.com", "--gpus", "x"],
        ["run", "--url", "https://example.com", "--label", "x"],
        ["run", "--url", "https://example.com", "--trainer", "x"],
        ["run", "--url", "https://example.com", "--token", "a", "--token-stdin"],
        ["run", "--url", "https://example.com", "--slots", "0"],
        ["dance"],
    ],
)
def test_what_cannot_be_is_refused_before_anything_happens(tmp_path: Path, arguments: list[str]) -> None:
    result = runner.invoke(app, [*arguments, *(["--state-dir", str(tmp_path / "s")] if arguments[0] == "run" else [])])
    assert result.exit_code == 2
    assert not (tmp_path / "s").exists()


def test_a_stranger_is_told_to_register_first(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cultivar_runner.cli.is_local", lambda url: False)
    result = runner.invoke(app, ["run", "--url", serve(registering).url, "--state-dir", str(tmp_path), *TRAINER])
    assert result.exit_code == 1
    assert "run `cultivar-runner register" in result.output


def test_the_version_is_said() -> None:
    answer = subprocess.run([sys.executable, "-m", "cultivar_runner", "--version"], capture_output=True, text=True)
    assert answer.stdout.strip() == __version__


def test_the_doctor_looks_at_everything(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: json_reply({"status": "ok"}, date="Thu, 01 Jan 1970 00:00:00 GMT"))
    findings: list[Finding] = []
    examine(server.url, tmp_path, [], findings.append)
    by_name = {finding.what: finding for finding in findings}
    assert by_name["Server"].verdict == "ok"
    assert by_name["Runner"].verdict == "warning"
    assert by_name["GPU"].text.startswith("no NVIDIA device")
    assert {"Python", "Frameworks", "Versions", "Disk", "Machine"} <= set(by_name)


def test_the_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    findings: list[Finding] = []
    assert not examine("http://127.0.0.1:9", tmp_path, [], findings.append)
    assert findings[-1].what == "Server" and findings[-1].verdict == "error"
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    assert "other users can look into it" in check_disk(open_folder).text
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert check_disk(in_the_way).verdict == "error"
    assert check_gpus([])[0].verdict == "warning"
