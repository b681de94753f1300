"""`steelyard serve`: runs services in this process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from steelyard.attestation.service import Attestation
from steelyard.enclave.service import EnclaveService
from steelyard.imaging.service import Imaging
from steelyard.isolation.service import Isolation
from steelyard.model.errors import WrongUse
from steelyard.service.configuration import DIRECTORY
from steelyard.service.serving import MakesService
from steelyard.service.serving import serve as serve_services

SERVICES: Final[Mapping[str, MakesService]] = {
    "isolation": Isolation,
    "imaging": Imaging,
    "attestation": Attestation,
    "enclave": EnclaveService,
}

app = typer.Typer(add_completion=False, help="Run services.")


@app.command()
def serve(
    services: Annotated[list[str] | None, typer.Argument(metavar="SERVICE...", help="Which; all, if none.")] = None,
    *,
    directory: Annotated[Path, typer.Option(help="Where the installation lives.", envvar="STEELYARD_DIR")] = DIRECTORY,
) -> None:
    """Run services until told to end, with SIGTERM or Ctrl-C. `steelyard init` makes what they need."""
    wanted = list(dict.fromkeys(services or SERVICES))
    for name in wanted:
        if name not in SERVICES:
            raise WrongUse("choosing services", expected=", ".join(SERVICES), found=name)
    serve_services(directory, SERVICES, wanted)
