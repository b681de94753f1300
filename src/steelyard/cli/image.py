"""`steelyard image`: golden images, which never change."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.cli.explain import parse_public_key_text
from steelyard.cli.files import read_file, write_file
from steelyard.cli.image_build import app as build_app
from steelyard.cli.output import show_good, show_json, show_lines
from steelyard.cli.reference import read_signing_key
from steelyard.cli.service import (
    AsJson,
    NoWait,
    Seconds,
    completing,
    connected,
    follow,
    in_words,
    place_of,
    raise_failures,
    show_operations,
    show_thing,
    show_things,
)
from steelyard.cli.sizes import size_words
from steelyard.cli.transfer import LocalFile, download, reading_file, upload
from steelyard.client import imaging
from steelyard.client.call import Call
from steelyard.client.codec import encode
from steelyard.client.connection import Client
from steelyard.client.imaging import FileSignature, ImageSource, Source, UploadSource, UrlSource
from steelyard.client.imaging_objects import BootFound, Image, ImagingOperation
from steelyard.imaging.signature import sign_image, verify_image_signature
from steelyard.model.errors import AlreadyThere, MalformedImage, NotFound, WrongDigest, WrongUse
from steelyard.model.limits import MANIFEST_BYTES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Golden images. An image never changes; nodes get volumes made of it. It belongs to a project and is private\n"
        "until it is shared. IMAGE is NAME, or PROJECT/NAME for another project's."
    ),
)
app.add_typer(build_app, name="build")

QCOW2_MAGIC: Final = b"QFI\xfb"

ImageName = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        help="The image: [PROJECT/]NAME.",
        autocompletion=completing(imaging.list_images, lambda image: f"{image.project}/{image.name}"),
    ),
]
Project = Annotated[str | None, typer.Option(help="Whose it is; without it, your only project's.")]
Public = Annotated[bool, typer.Option("--public", help="For every project; the provider's choice.")]
Share = Annotated[
    list[str] | None, typer.Option("--share", metavar="PROJECT", help="For this project too; may be given again.")
]


class Format(StrEnum):
    """What a file is."""

    RAW = "raw"
    QCOW2 = "qcow2"


# -- making ------------------------------------------------------------------------------------------------------------


@app.command("import")
def import_image(
    image: ImageName,
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="A file here, or what the service is to fetch.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="What it is; it is never guessed.")],
    project: Project = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="Of the file; another one is refused.")] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `steelyard image sign` made; with --signed-by.")
    ] = None,
    signed_by: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Who must have signed it: the key as `steelyard reference keygen` prints it."),
    ] = None,
    public: Public = False,
    share: Share = None,
    seconds: Seconds = imaging.LONG_SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Make an image of a file. A transfer that broke off goes on where it was when the same command is given again.

    Examples: `steelyard image import debian debian.qcow2 --format qcow2`, `steelyard image import debian
    https://example.org/debian.raw --format raw --sha256 9f86...`
    """
    if (signature is None) != (signed_by is None):
        raise WrongUse("importing an image", expected="--signature and --signed-by, or neither", found="one")
    vouched = None
    if signature is not None and signed_by is not None:
        vouched = FileSignature(
            read_file(signature, MANIFEST_BYTES).decode("utf-8", "replace"),
            _pem(parse_public_key_text(signed_by)),
        )
    visibility = _visibility(public=public, share=share or ())
    with connected() as client:
        owner, name = place_of(client, image, project)

        def make(what: Source, digest: str | None) -> Call[ImagingOperation]:
            return imaging.make_image(
                owner,
                name,
                source=what,
                sha256=digest,
                signature=vouched,
                visibility=visibility,
                shared_with=share or (),
                seconds=seconds,
            )

        if source.startswith(("http://", "https://")):
            begun = client.ask(make(UrlSource(source, form), sha256))
        else:
            _check_new(client, owner, name)
            with reading_file(Path(source)) as local:
                _check_file(local, form, sha256, vouched)
                sent = upload(client, owner, local)
            begun = client.ask(make(UploadSource(sent.name, form), local.sha256))
        _finish(client, begun, no_wait=no_wait, as_json=as_json)


def _pem(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _visibility(*, public: bool, share: Sequence[str]) -> str:
    if public and share:
        raise WrongUse("sharing an image", expected="--public or --share", found="both")
    return "public" if public else "shared" if share else "private"


def _check_new(client: Client, project: str, name: str) -> None:
    """Let pass a name that no image has; one that is being made may be this one. Raises AlreadyThere."""
    try:
        before = client.ask(imaging.read_image(project, name))
    except NotFound:
        return
    if before.state == "ready":
        found = f"an image from {before.source or 'elsewhere'}"
        raise AlreadyThere(f"importing {project}/{name}", expected="a name that is not taken", found=found)


def _check_file(local: LocalFile, form: Format, sha256: str | None, vouched: FileSignature | None) -> None:
    """Let pass what the service would, before all of it is sent. Raises WrongDigest, MalformedImage, Malformed..."""
    doing = f"importing {local.path}"
    announced = {sha256} if sha256 is not None else set()
    if vouched is not None:
        signed = verify_image_signature(vouched.envelope.encode(), vouched.key.encode())
        announced.add(signed.sha256.hex())
    for digest in announced:
        if digest != local.sha256:
            raise WrongDigest(doing, expected=f"SHA-256 {digest}", found=local.sha256)
    is_qcow2 = local.read(0, len(QCOW2_MAGIC)) == QCOW2_MAGIC
    if is_qcow2 != (form is Format.QCOW2):
        found = "a qcow2 file" if is_qcow2 else "a file that does not begin as one"
        raise MalformedImage(doing, expected="a disk" if is_qcow2 else "a qcow2 file", found=found)


@app.command()
def copy(
    image: ImageName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The copy: [PROJECT/]NAME.")],
    *,
    project: Project = None,
    public: Public = False,
    share: Share = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Have an image that you may use as one of your own, under a name of your own: it stays when the other goes.

    Example: `steelyard image copy green/debian debian`
    """
    with connected() as client:
        owner, name = place_of(client, new, project)
        from_owner, from_name = place_of(client, image, owner if "/" not in image else None)
        call = imaging.make_image(
            owner,
            name,
            source=ImageSource(f"{from_owner}/{from_name}"),
            visibility=_visibility(public=public, share=share or ()),
            shared_with=share or (),
            seconds=seconds,
        )
        _finish(client, client.ask(call), no_wait=no_wait, as_json=as_json)


def _finish(client: Client, begun: ImagingOperation, *, no_wait: bool, as_json: bool) -> None:
    """Follow the making of an image, and show what came of it. Raises what ended it."""
    if no_wait:
        show_operations([begun], as_json=as_json)
        return
    ended = follow(client, [begun])
    raise_failures(ended)
    _show(client.ask(imaging.read_image(begun.project, begun.subject.removeprefix("image/"))), as_json=as_json)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="The file of the image, as it will be imported.")],
    *,
    key: Annotated[Path, typer.Option(help="The private key: Ed25519, PEM; `steelyard reference keygen` makes one.")],
    out: Annotated[Path, typer.Option(help="Where to write the signature; `-` is standard output.")],
) -> None:
    """Vouch for the file of an image: for its digest and its size.

    Example: `steelyard image sign debian.raw --key maker.key --out debian.raw.sig`
    """
    signing_key = read_signing_key(key)
    with reading_file(file) as local:
        envelope = sign_image(bytes.fromhex(local.sha256), local.size_bytes, signing_key)
    write_file(out, envelope.to_bytes())


# -- looking -----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_images(
    *, project: Annotated[str | None, typer.Option(help="Only this project's.")] = None, as_json: AsJson = False
) -> None:
    """List the images that you may use.

    Example: `steelyard image list --project blue`
    """
    with connected() as client:
        columns = ("image", "state", "size", "for", "boots by", "SHA-256")
        show_things(client.every(imaging.list_images(project=project)), columns, _row, as_json=as_json)


def _row(image: Image) -> Sequence[str | None]:
    whom = ", ".join(image.shared_with) if image.visibility == "shared" else image.visibility
    size = None if image.size_bytes is None else size_words(image.size_bytes)
    boots = None if image.boot is None else _kind(image.boot)
    return f"{image.project}/{image.name}", image.state, size, whom, boots, image.sha256 and image.sha256[:16]


def _kind(boot: BootFound) -> str:
    return "unified kernel" if boot.kernel is None else "kernel"


@app.command()
def show(image: ImageName, *, project: Project = None, as_json: AsJson = False) -> None:
    """Show an image: what is in it, what boots of it, who may use it.

    Example: `steelyard image show debian`
    """
    with connected() as client:
        _show(client.ask(imaging.read_image(*place_of(client, image, project))), as_json=as_json)


def _show(image: Image, *, as_json: bool) -> None:
    document = encode(image)
    if as_json or not isinstance(document, dict):
        show_thing(image, as_json=as_json)
        return
    if image.size_bytes is not None:
        document["size_bytes"] = f"{image.size_bytes} ({size_words(image.size_bytes)})"
    if image.boot is not None:
        files = {"unified": image.boot.unified, "kernel": image.boot.kernel, "initramfs": image.boot.initramfs}
        parts = [f"{name} {file.sha256[:16]} ({size_words(file.size_bytes)})" for name, file in files.items() if file]
        parts.append(f"{len(image.boot.measurements)} expected measurements (--json)")
        document["boot"] = ", ".join(parts)
        document["command_line"] = image.boot.command_line
    width = max(map(len, document))
    show_lines(*(f"{name.replace('_', ' '):{width}}  {in_words(value)}" for name, value in document.items()))


@app.command()
def density(image: ImageName, *, project: Project = None, as_json: AsJson = False) -> None:
    """Show the room that an image takes, and what each of your volumes on it takes beside it.

    Example: `steelyard image density debian`
    """
    with connected() as client:
        owner, name = place_of(client, image, project)
        found = client.ask(imaging.read_density(owner, name))
    if as_json:
        show_thing(found, as_json=True)
        return
    columns = ("what", "seems", "takes")
    rows = [("image", name, found.apparent_bytes, found.real_bytes)]
    rows += [("volume", use.name, use.apparent_bytes, use.real_bytes) for use in found.volumes]
    show_things(
        rows, columns, lambda row: (f"{row[0]} {row[1]}", size_words(row[2]), size_words(row[3])), as_json=False
    )


@app.command()
def export(
    image: ImageName,
    file: Annotated[Path, typer.Argument(help="Where to write the disk: raw, holes stay holes.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Write the disk of an image to a file. One that broke off goes on when the same command is given again.

    Example: `steelyard image export debian debian.raw`
    """
    with connected() as client:
        found = client.ask(imaging.read_image(*place_of(client, image, project)))
        download(client, found, file)
    if as_json:
        show_json({"file": str(file), "sha256": found.sha256, "size_bytes": found.size_bytes})
    else:
        show_good(f"{file}: SHA-256 {found.sha256}")


# -- changing ----------------------------------------------------------------------------------------------------------


@app.command()
def rename(
    image: ImageName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Give an image another name; volumes made of it stay.

    Example: `steelyard image rename debian debian-13`
    """
    with connected() as client:
        _show(client.ask(imaging.rename_image(*place_of(client, image, project), new)), as_json=as_json)


@app.command()
def share(
    image: ImageName,
    projects: Annotated[list[str], typer.Argument(metavar="PROJECT...", help="With whom, besides those it is for.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Let other projects use an image.

    Example: `steelyard image share debian green red`
    """
    with connected() as client:
        now = client.ask(imaging.read_image(*place_of(client, image, project)))
        if now.visibility == "public":
            raise WrongUse("sharing an image", expected="one that is not for everybody already", found="public")
        _share(client, now, {*now.shared_with, *projects}, as_json=as_json)


@app.command()
def unshare(
    image: ImageName,
    projects: Annotated[list[str], typer.Argument(metavar="PROJECT...", help="Who is not to use it any more.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Take an image from projects; what they made of it stays. Without any left, it is private.

    Example: `steelyard image unshare debian green`
    """
    with connected() as client:
        now = client.ask(imaging.read_image(*place_of(client, image, project)))
        if strangers := set(projects) - set(now.shared_with):
            found = ", ".join(sorted(strangers))
            raise WrongUse("taking an image from projects", expected="some that it is shared with", found=found)
        _share(client, now, set(now.shared_with) - set(projects), as_json=as_json)


@app.command()
def publish(image: ImageName, *, project: Project = None, as_json: AsJson = False) -> None:
    """Let every project use an image (provider).

    Example: `steelyard image publish golden/debian`
    """
    with connected() as client:
        owner, name = place_of(client, image, project)
        _show(client.ask(imaging.set_visibility(owner, name, "public")), as_json=as_json)


@app.command()
def withdraw(image: ImageName, *, project: Project = None, as_json: AsJson = False) -> None:
    """Let nobody but its owner use an image any more; what others made of it stays.

    Example: `steelyard image withdraw debian`
    """
    with connected() as client:
        owner, name = place_of(client, image, project)
        _show(client.ask(imaging.set_visibility(owner, name, "private")), as_json=as_json)


def _share(client: Client, image: Image, projects: set[str], *, as_json: bool) -> None:
    """Write for whom an image is; what somebody else changed meanwhile is not overwritten."""
    call = imaging.set_visibility(
        image.project,
        image.name,
        "shared" if projects else "private",
        shared_with=sorted(projects),
        version=image.version,
    )
    _show(client.ask(call), as_json=as_json)


@app.command()
def delete(image: ImageName, *, project: Project = None) -> None:
    """Delete an image that no volume stands on and no node boots.

    Example: `steelyard image delete debian-12`
    """
    with connected() as client:
        client.ask(imaging.delete_image(*place_of(client, image, project)))


@app.command()
def uploads(
    *,
    project: Project = None,
    delete_name: Annotated[str | None, typer.Option("--delete", metavar="UPLOAD", help="Throw this one away.")] = None,
    as_json: AsJson = False,
) -> None:
    """List a project's uploads that no image was made of yet; each is thrown away after 7 days.

    Example: `steelyard image uploads`
    """
    with connected() as client:
        owner, name = place_of(client, delete_name or "", project)
        if name:
            client.ask(imaging.delete_upload(owner, name))
            return
        columns = ("upload", "received", "of")
        show_things(
            client.every(imaging.list_uploads(owner)),
            columns,
            lambda upload: (upload.name, size_words(upload.received_bytes), size_words(upload.size_bytes)),
            as_json=as_json,
        )
