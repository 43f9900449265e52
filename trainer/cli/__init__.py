"""`trainer`: stage two on the command line. Heavy imports happen inside the command that needs them."""

from stages import command
from trainer.cli import analysis, bench, compose, confidence, language, predict, published, run, serve, study, suggest
from trainer.cli.app import app

__all__ = [
    "analysis",
    "app",
    "bench",
    "compose",
    "confidence",
    "language",
    "main",
    "predict",
    "published",
    "run",
    "serve",
    "study",
    "suggest",
]


def main() -> None:
    """Entry point of the console command."""
    command.main(app)
