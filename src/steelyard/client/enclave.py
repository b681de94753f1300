"""Each call of the enclave service, said once. `Client.ask(apply("blue", "lab", text))` makes it.

What it begins goes on by itself; `read(..., wait_seconds=30)` waits until nothing is under way any more.
"""

from steelyard.client.call import Call, Page, given, listing, path, putting, reading, waiting
from steelyard.client.codec import Json
from steelyard.client.enclave_objects import Enclave, Place, Plan


def list_enclaves(*, project: str | None = None) -> Call[Page[Enclave]]:
    """Ask for the enclaves that the caller sees: all, or a project's."""
    return listing("listing enclaves", path("enclaves"), Enclave, given(project=project))


def read(project: str, name: str, *, wait_seconds: int = 0) -> Call[Enclave]:
    """Ask how an enclave is; wait until it is settled as long as given."""
    doing = f"looking for enclave {project}/{name}"
    query = given(wait=waiting(wait_seconds))
    return Call(doing, "GET", _where(project, name), reading(Enclave, doing), query=query, wait_seconds=wait_seconds)


def list_places(project: str, name: str, *, over: bool = False) -> Call[Page[Place]]:
    """Ask for an enclave's places; or for those that are over, with their receipts."""
    where = path("projects", project, "enclaves", name, "places")
    return listing(f"listing the places of {project}/{name}", where, Place, given(over="true" if over else None))


def apply(project: str, name: str, file: str, *, version: int | None = None) -> Call[Enclave]:
    """Have an enclave be as a file says (its text, YAML or JSON)."""
    doing = f"applying enclave {project}/{name}"
    body: Json = {"file": file}
    return putting(doing, _where(project, name), body, reading(Enclave, doing), version)


def plan(project: str, name: str, file: str) -> Call[Plan]:
    """Ask what applying a file would change."""
    doing = f"planning enclave {project}/{name}"
    return Call(
        doing, "POST", path("projects", project, "enclaves", name, "plan"), reading(Plan, doing), body={"file": file}
    )


def delete(project: str, name: str, *, version: int | None = None) -> Call[Enclave]:
    """Have every machine of an enclave given back. Asked again, nothing."""
    doing = f"deleting enclave {project}/{name}"
    return Call(doing, "DELETE", _where(project, name), reading(Enclave, doing), version=version)


def cancel(project: str, name: str, *, place: str | None = None) -> Call[Enclave]:
    """Give up what is on its way, all of it or one place; that many fewer machines are wanted from now on."""
    return _act(f"cancelling enclave {project}/{name}", project, name, "cancel", place)


def retry(project: str, name: str, *, place: str | None = None) -> Call[Enclave]:
    """Give machines that are held back, all or one, and try others."""
    return _act(f"trying enclave {project}/{name} again", project, name, "retry", place)


def _where(project: str, name: str) -> str:
    return path("projects", project, "enclaves", name)


def _act(doing: str, project: str, name: str, what: str, place: str | None) -> Call[Enclave]:
    body: Json = {"place": place}
    where = path("projects", project, "enclaves", name, what)
    return Call(doing, "POST", where, reading(Enclave, doing), body=body, repeatable=False)
