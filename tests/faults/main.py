"""Rounds of faults by the hundred: `python tests/faults/main.py --rounds 200 --seed 1`.

A failing round prints its seed, its faults and the differences; `--seed S --rounds 1` repeats it. Round i of seed S has
seed S + i.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from fault_runner import FaultRunner
from scenario import FAULTS, random_scenario


def main() -> int:
    """Run the rounds; the exit code is 1 if a round failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=FAULTS, default=[], help="these faults, in every round")
    parser.add_argument("--group-protocol", choices=["classic", "consumer"], default="classic", help="of the workers")
    parser.add_argument("--commit-beside", action=argparse.BooleanOptionalAction, default=True, help="of the workers")
    parser.add_argument("--keep", action="store_true", help="keep the logs of rounds that pass")
    parser.add_argument("--verbose", action="store_true", help="show every round")
    parser.add_argument("--until-first", action="store_true", help="stop at the first round that fails")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="anabranch-faults-"))
    failed: list[int] = []
    ends: Counter[str] = Counter()
    began_s = time.monotonic()
    with FaultRunner(folder) as runner:
        for seed in range(options.seed, options.seed + options.rounds):
            scenario = replace(random_scenario(seed, options.only), protocol=options.group_protocol)
            report = runner.run(replace(scenario, commit_beside=options.commit_beside))
            ends.update(f"{'+'.join(report.scenario.kinds)}: {end.last_lines.splitlines()[0]}" for end in report.ends)
            if report.wrong or options.verbose:
                print(report, flush=True)
            else:
                print(f"seed {seed}: {'+'.join(report.scenario.kinds)} {report.took_s:.1f} s", flush=True)
            if report.wrong:
                failed.append(seed)
                if options.until_first:
                    break
            elif not options.keep:
                shutil.rmtree(report.folder)
    print(f"{options.rounds} rounds in {time.monotonic() - began_s:.0f} s, {len(failed)} failed: {failed}")
    for end, count in ends.most_common():
        print(f"  {count} x {end}")
    if not failed and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
