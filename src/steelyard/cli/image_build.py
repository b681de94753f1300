"""`steelyard image build`: make an image of a small system that has its root disk on the network."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from steelyard.cli.files import write_file
from steelyard.cli.output import show_lines
from steelyard.cli.sizes import parse_size, size_words
from steelyard.imaging.ports import ImageFormat
from steelyard.imaging.tenant.debian import OnRejection, Recipe, build_debian, seal_text
from steelyard.model.errors import WrongUse

app = typer.Typer(no_args_is_help=True, help="Make an image of a small system that has its root disk on the network.")

_FORMATS: Final = {".qcow2": ImageFormat.QCOW2, ".raw": ImageFormat.RAW}


@app.callback()
def _group() -> None:
    pass


@app.command()
def debian(
    output: Annotated[Path, typer.Option(help="The file to make: .qcow2 or .raw, by its name.")],
    size: Annotated[str, typer.Option(help="Of the disk; a volume made of it can be larger.")] = "2G",
    kernel: Annotated[
        str, typer.Option(help="Debian package of the kernel; `linux-image-amd64` for physical machines.")
    ] = "linux-image-cloud-amd64",
    package: Annotated[list[str] | None, typer.Option(help="One more package; may be given several times.")] = None,
    luks_key: Annotated[
        Path | None,
        typer.Option(
            help="Encrypt the disk with the key in this file: 32 characters or more, as `openssl rand -hex 32`."
        ),
    ] = None,
    with_agent: Annotated[
        OnRejection | None,
        typer.Option(
            help="Have the kernel measure what runs, and the agent report it to the verifier. What the machine does "
            "when that rejects it: report no more, or power off as well."
        ),
    ] = None,
    suite: Annotated[str, typer.Option(help="The Debian release.")] = "bookworm",
) -> None:
    """Build a small Debian, with sshd, that opens its root disk by NBD or iSCSI as it is told at its start.

    It has no passwords and nobody's keys: who may log in, and the machine's name, come in the seed of its boot. Host
    key and machine id are made at the first start. FILE.seal.yaml is what an enclave file of `trust: sealed` pins it
    by. An encrypted image has none, and cannot be looked into: what boots it is written beside it, FILE.kernel,
    FILE.initramfs, FILE.cmdline. For root.
    """
    doing = "building a Debian image"
    form = _FORMATS.get(output.suffix)
    if form is None:
        raise WrongUse(doing, expected="a file named .qcow2 or .raw", found=output.name)
    recipe = Recipe(suite, kernel, tuple(package or ()), parse_size(size), with_agent)
    if os.geteuid() != 0:
        raise WrongUse(doing, expected="root, who may give files to others", found="another user")
    if not output.parent.is_dir():
        raise WrongUse(doing, expected="a directory to write to", found=f"{output.parent}")
    boot = build_debian(recipe, output, form, luks_key, (output.parent / ".packages").absolute())
    show_lines(f"{output}  {size_words(recipe.size_bytes)}, {size_words(output.stat().st_blocks * 512)} of it in use")
    if boot.seal is not None:
        beside = output.with_name(f"{output.name}.seal.yaml")
        write_file(beside, seal_text(boot, boot.seal).encode())
        show_lines(f"{beside}")
    else:
        parts = {".kernel": boot.kernel, ".initramfs": boot.initramfs, ".cmdline": boot.command_line.encode()}
        for suffix, content in parts.items():
            beside = output.with_name(output.name + suffix)
            write_file(beside, content)
            show_lines(f"{beside}  {size_words(len(content))}")
