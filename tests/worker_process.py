"""Cycles of the generation worker in forked children that die at failpoints: arguments are FOLDER FAILPOINTS VARIABLE.

FAILPOINTS is a JSON list, with one child for each; VARIABLE is the environment variable that names the failpoint.
Prints the exit code of each child; -9 is a kill.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

from girl_features.config import GirlConfig
from tests.fakes import TemplateGenerator
from tests.forked_jobs import fork
from tests.input_tables import write_tables
from tests.served_market import CONTRACT, ServedMarket

CHUNK = 4


def run_cycle(market: ServedMarket, failpoint: str, variable: str) -> None:
    os.environ[variable] = failpoint
    market.worker().cycle()


def main(folder: Path, failpoints: list[str], variable: str) -> None:
    config = GirlConfig(workspace=folder / "workspace", tables=write_tables(folder), chunk_size=CHUNK)
    market = ServedMarket(config, TemplateGenerator(), CONTRACT)
    codes = []
    for failpoint in failpoints:
        pid = fork(partial(run_cycle, market, failpoint, variable))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
