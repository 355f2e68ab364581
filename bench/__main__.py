"""The command: which cases, on which systems, how many rounds."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from bench import report
from bench.cases import CASES
from bench.figures import Case, Rounds
from bench.processes import MeasureError
from bench.session import Stage
from bench.systems import SYSTEMS, named
from bench.venvs import python_of

#: Share of the work that a smoke run does.
QUICK = 0.02


def main() -> int:
    """Run the cases, print each table when it is done, keep them all."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that what we started is ended
    options = _parser().parse_args()
    names = tuple(options.systems or (system.name for system in SYSTEMS))
    cases = [case for case in CASES if case.name in (options.cases or [c.name for c in CASES])]
    stage = Stage(QUICK if options.quick else options.scale)
    for system in named(names):
        python_of(system)  # installs are not in anybody's way later
    results = [_run(case, stage, names, 1 if options.quick else options.rounds) for case in cases]
    if not (options.quick or options.no_record):
        report.record(results, options.note, scale=options.scale)
    return int(any(rounds.failures for rounds in results))


def _run(case: Case, stage: Stage, names: Sequence[str], count: int) -> Rounds:
    rounds = Rounds(case)
    systems = named(tuple(name for name in case.systems if name in names))
    for number in range(min(count, case.rounds)):
        for system in systems:
            _tell(f"{case.name}: round {number + 1}, {system.name}")
            try:
                rounds.add(system.name, case.measure(stage, system))
            except MeasureError as error:
                rounds.add(system.name, {})
                rounds.failures[system.name] = str(error).strip().splitlines()[-1]
                _tell(str(error))
    print(f"\n## {case.title}\n\n{report.table(rounds)}\n", flush=True)
    return rounds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", choices=[c.name for c in CASES] + [[]])
    parser.add_argument(
        "--systems", nargs="+", choices=[s.name for s in SYSTEMS], help="all, if none is named"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the amount of work")
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    parser.add_argument("--no-record", action="store_true", help="leave RESULTS.md alone")
    parser.add_argument("--note", default="", help="a sentence for the section in RESULTS.md")
    return parser


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
