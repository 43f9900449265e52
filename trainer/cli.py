"""`trainer`."""
def main() -> None:
    """Entry."""
