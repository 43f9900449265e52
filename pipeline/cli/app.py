"""The command line application and what several of its commands say."""

from pathlib import Path

from stages.command import App, say

app = App(
    help="Stage one: images, questions, a language model and an image-text encoder to Parquet stores in cache/.",
)

CACHE = Path("cache")


def list_some(
    what: str, items: list[str], most: int = 10, *, all_at: str = '`pipeline sql "SELECT * FROM manifest"`'
) -> None:
    """The first few of a list of findings, and where the rest can be seen."""
    if items:
        say(f"{len(items)} {what}:")
        for item in items[:most]:
            say(f"  {item}")
        if len(items) > most:
            say(f"  ... and {len(items) - most} more (see {all_at})")


def say_note(note: str) -> None:
    """The honest line about an encoder or a language model, where there is one."""
    if note:
        say(f"note: {note}")
