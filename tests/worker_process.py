"""Runs cycles of the worker in forks that die at named moments: arguments are FOLDER MOMENTS VARIABLE.

Started once, as importing Feast takes seconds. Prints how each fork ended: -9 for a kill.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from girl_features.config import GirlConfig
from tests.fakes import TemplateGenerator
from tests.input_tables import write_tables
from tests.served_market import CONTRACT, ServedMarket

CHUNK = 4


def main(folder: Path, moments: list[str], variable: str) -> None:
    config = GirlConfig(workspace=folder / "workspace", tables=write_tables(folder), chunk_size=CHUNK)
    market = ServedMarket(config, TemplateGenerator(), CONTRACT)
    ends = []
    for moment in moments:
        pid = os.fork()
        if pid == 0:
            os.environ[variable] = moment
            try:
                market.worker().cycle()
            finally:
                os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
