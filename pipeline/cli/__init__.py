"""`pipeline`: stage one on the command line. Heavy imports happen inside the command that needs them."""

from pipeline.cli import ask, audit, bench, controls, data, embed, project, prompts, trust
from pipeline.cli.app import app
from stages import command

__all__ = ["app", "ask", "audit", "bench", "controls", "data", "embed", "main", "project", "prompts", "trust"]


def main() -> None:
    """Entry point of the console command."""
    command.main(app)
