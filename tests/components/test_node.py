"""Node.js, by scripts that it really runs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from faultline.components import BadSettings, Clone, StartFailed, Supervisor, processes
from faultline.components.http import ask
from faultline.components.node import OLDEST, Node
from faultline.components.providers import Absent, FromPath, Program

SERVER = """
import { createServer } from "node:http";
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const starts = existsSync("data/starts") ? Number(readFileSync("data/starts")) : 0;
writeFileSync("data/starts", String(starts + 1));
const seen = { starts, words: process.argv.slice(2), shop: process.env.SHOP };
createServer((_, answer) => answer.end(JSON.stringify(seen)))
  .listen(process.env.PORT, process.env.HOST);
"""


async def test_a_script_is_a_server_that_is_killed_and_restarted(tmp_path: Path) -> None:
    script = tmp_path / "server.mjs"
    script.write_text(SERVER)
    settings = {"script": script, "arguments": ["one", "two"], "environment": {"SHOP": "shoes"}}
    async with Supervisor(tmp_path / "lab") as supervisor:
        server = await supervisor.start("node", settings=settings)
        assert Node.memory / 4 < server.memory() < Node.memory * 2
        assert server.pid
        listening = {row.laddr for row in psutil.Process(server.pid).net_connections() if row.status == "LISTEN"}
        assert listening == {("127.0.0.1", server.port)}
        assert json.loads((await ask(server.url)).body) == {"starts": 0, "words": ["one", "two"], "shop": "shoes"}

        await server.kill()
        await server.restart()

        assert json.loads((await ask(server.url)).body)["starts"] == 1


async def test_a_script_that_throws_is_told_with_its_reason(tmp_path: Path) -> None:
    script = tmp_path / "server.mjs"
    script.write_text("throw new Error('no shop today');")
    async with Supervisor(tmp_path / "lab") as supervisor:
        with pytest.raises(StartFailed, match=r"(?s)exited with 1.*no shop today"):
            await supervisor.start("node", settings={"script": script})


async def test_without_a_script_there_is_nothing_to_start(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(BadSettings, match=r"node: .*'script'; it has script, arguments, environment"):
            await supervisor.start("node")


async def test_a_tool_runs_on_a_node_that_is_new_enough(tmp_path: Path) -> None:
    clone = Clone.here()
    node = await Node.sources.provide(clone)
    assert isinstance(node, Program)
    assert tuple(map(int, node.version().split("."))) >= OLDEST
    argv = [str(node.path), "-p", "[3, 1, 2].toSorted().join()"]
    assert await processes.run(argv, folder=tmp_path, environment=clone.environment) == (0, "1,2,3")


def test_one_that_is_too_old_is_passed_over_and_named(tmp_path: Path) -> None:
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v20.9.1\n")
    old.chmod(0o755)
    here = Clone.here()
    clone = replace(here, environment={**here.environment, "PATH": f"{tmp_path}:{os.defpath}"})
    reason = FromPath(("node",), at_least=OLDEST).look(replace(clone, environment={"PATH": str(tmp_path)}))
    assert reason == Absent("path", f"{old} is 20.9.1, needed is 20.19 or newer")
    assert not isinstance(Node.sources.survey(clone)[-1], Absent)
