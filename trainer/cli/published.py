"""`trainer paper-table`."""

from stages import UserError, command
from stages.command import JsonOption, ResultsOption, say
from trainer.cli.app import RESULTS, app


@app.command("paper-table")
def paper_table(results: ResultsOption = RESULTS, as_json: JsonOption = False) -> None:
    """Our results beside the published ones: same protocol, data sets and shots, with the difference and its interval.

    Ours are read from the runs of --results, such as results/paper after `make paper`. Percent.
    """
    from dataclasses import asdict

    from trainer.published import HEADERS, cells
    from trainer.published import paper_table as run
    from trainer.runs.record import finished_runs

    if results.exists() and not results.is_dir():
        raise UserError(f"--results {results}: a file; name the folder of a run, such as results/paper", exit_code=2)
    rows = run(finished_runs(results))
    command.show(
        [asdict(row) for row in rows],
        as_json=as_json,
        text=lambda: command.table(HEADERS, [cells(row) for row in rows]),
    )
    there = sum(row.ours is not None for row in rows)
    if not results.exists():
        say(f"note: {results} is not there")
    say(f"{there} of {len(rows)} rows are run; intervals (95 %) are over the seeds, the published numbers have none")
