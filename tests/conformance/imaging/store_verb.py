"""One verb of a store, as a program that can be killed: STORE VERB ARGUMENT..."""

import sys
from pathlib import Path

from steelyard.imaging.ports import UNWATCHED, ImageFormat, Store
from tests.conformance.imaging.stores import open_store


def do(store: Store, verb: str, *arguments: str) -> None:
    match verb, arguments:
        case "import", (image, source, form):
            store.import_image(image, Path(source), ImageFormat(form), None, 2**40, UNWATCHED)
        case "clone", (image, volume):
            store.clone(image, volume)
        case "create volume", (volume, size):
            store.create_volume(volume, int(size))
        case "copy image", (image, copy):
            store.copy_image(image, copy)
        case "snapshot", (volume, image):
            store.snapshot(volume, image, UNWATCHED)
        case "roll back", (volume, image):
            store.roll_back(volume, image)
        case "flatten", (volume,):
            store.flatten(volume, UNWATCHED)
        case "resize", (volume, size):
            store.resize(volume, int(size))
        case "delete volume", (volume,):
            store.delete_volume(volume)
        case "delete image", (image,):
            store.delete_image(image)
        case _:
            raise ValueError(verb)


if __name__ == "__main__":
    do(open_store(sys.argv[1], Path(sys.argv[2])), *sys.argv[3:])
