"""`steelyard airlock`: build the small measured system that a node runs while it is weighed."""

import re
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

import typer

from steelyard.cli.files import write_file
from steelyard.cli.output import show_lines
from steelyard.evidence.document import parse_time
from steelyard.imaging.airlock.build import SECOND_STAGE_NAME, UKI_NAME, Edition, build_airlock
from steelyard.model.errors import WrongUse

app = typer.Typer(
    no_args_is_help=True, help="The airlock image: the small measured system that a node runs while it is weighed."
)

MANIFEST_NAME: Final = "airlock.manifest.json"
SBOM_NAME: Final = "airlock.spdx.json"
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._+-]*", re.ASCII)


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(
    output: Annotated[Path, typer.Option(help="Directory for the files; made if it is not there.")],
    serial: Annotated[int, typer.Option(help="Counts up with every issue of the manifest.", min=1)],
    valid_days: Annotated[int, typer.Option(help="How long the manifest holds.", min=1, max=3660)],
    kernel: Annotated[
        str, typer.Option(help="Debian package of the kernel; `linux-image-amd64` for physical machines.")
    ] = "linux-image-cloud-amd64",
    driver: Annotated[
        list[str] | None,
        typer.Option(
            help="Kernel module of a network card to boot through; may be given several times.",
            show_default="virtio_pci, virtio_net",
        ),
    ] = None,
    issued: Annotated[
        str | None, typer.Option(help="When the manifest is issued; now, if not given.", metavar="TIME")
    ] = None,
) -> None:
    """Build the image from Debian packages, with what it must measure to and what is in it.

    Writes airlock.efi, which firmware starts; airlock.squashfs, which it fetches from beside it and checks; the
    manifest airlock.manifest.json, to be signed with `steelyard reference sign`; the software list airlock.spdx.json.
    The same packages, options and TIME give the same bytes. Packages come from this computer's apt sources.
    """
    drivers = tuple(driver or ("virtio_pci", "virtio_net"))
    for word in (kernel, *drivers):
        if not _WORD.fullmatch(word):
            raise WrongUse("building the airlock image", expected="a name of a package or module", found=word)
    begin = parse_time(issued) if issued else datetime.now(UTC).replace(microsecond=0)
    edition = Edition(kernel, drivers, metadata.version("steelyard"), serial, begin, begin + timedelta(days=valid_days))
    try:
        (output / ".packages").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"writing to {output}", expected="a directory", found=error.strerror or str(error)) from error
    image = build_airlock(edition, (output / ".packages").resolve())
    files = {
        UKI_NAME: image.uki,
        SECOND_STAGE_NAME: image.second_stage,
        MANIFEST_NAME: image.manifest.to_bytes(),
        SBOM_NAME: image.sbom,
    }
    for name, content in files.items():
        write_file(output / name, content)
        show_lines(f"{output / name}  {len(content):,} bytes")
