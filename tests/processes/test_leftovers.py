"""What a test run leaves in its temporary folder: no processes, nothing large, but the logs."""

from pathlib import Path

from tests.support.harness import Server, command_line
from tests.support.leftovers import remove_leftovers
from tests.support.mongod import Mongod


def test_servers_and_databases_end_and_only_logs_are_left(tmp_path: Path) -> None:
    server, mongod = Server(tmp_path / "data").start(), Mongod(tmp_path / "db").start()
    pids = [server.process.pid, *server.mongod_pids(), mongod.process.pid]
    assert len(pids) == 3
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    with Mongod(tmp_path.with_name(f"{tmp_path.name}-other")) as other:
        remove_leftovers(tmp_path)
        assert other.state() == "PRIMARY"
    assert not any(map(command_line, pids))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert not (tmp_path / "data" / "db").exists()
    assert "MongoDB 6" in server.stderr()
    mongod.kill()
    server.stop()
