"""What the commands share whose model may run in workers of a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages import command
from stages.errors import UserError

if TYPE_CHECKING:
    from stages.params import Params

EngineOption = Annotated[
    str | None,
    typer.Option(help="local: in this process; ray: in workers of a Ray cluster (docs/scale.md).", metavar="ENGINE"),
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join, HOST:PORT or auto; default one of its own.", metavar="ADDRESS"),
]


def settings_on(params: Path | None, engine: str | None, address: str | None, flags: dict[str, Any]) -> "Params":
    """The settings of a command whose model may run on a cluster; one that is not there is told at once.

    Raises:
        UserError: as `command.settings`; no cluster is at the address, or the address is of no use.
    """
    settings = command.settings(params, {"cluster.engine": engine, "cluster.address": address, **flags})
    if settings.cluster.engine == "ray":
        from pipeline.cluster.connection import check_address

        check_address(settings.cluster)
    elif address is not None:
        raise UserError(f"--address {address} is of no use without --engine ray", exit_code=2)
    return settings
