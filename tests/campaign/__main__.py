"""The long campaign: `nice python -m tests.campaign PART [--trials N] [--seed S] [--folder DIR]` in the project.

PART is settings, results, stores or kills. A stopped campaign goes on with the same command.
"""

import argparse
import sys
from pathlib import Path

from tests.campaign.run import campaign, start, summary

TRIALS = {"settings": 5000, "results": 1000, "stores": 1000, "kills": 200}


def main() -> int:
    """The command line; exit code 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("part", choices=TRIALS)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("campaign"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    folder, trials = asked.folder.resolve(), asked.trials or TRIALS[asked.part]
    start()
    if asked.part == "kills":
        from tests.campaign.kills import kills

        verdicts = kills(trials, seed=asked.seed, folder=folder)
    else:
        verdicts = campaign(asked.part, trials=trials, seed=asked.seed, folder=folder)
    print(summary(verdicts))
    return any(verdict["faults"] for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
