"""`python -m steelyard.lab.demo up|down DIRECTORY`: what `./demo` runs when all is installed."""

import shutil
import sys
from pathlib import Path

from rich.console import Console

from steelyard.lab import rack
from steelyard.lab.demo.place import Place, Screen, check_root
from steelyard.lab.demo.story import CHAPTERS, Story, build
from steelyard.model.errors import SteelyardError


def up(place: Place) -> None:
    """Go through the story from the beginning, whatever an earlier run left."""
    screen = place.screen
    down(place)
    for left in (place.services, place.tenant):
        shutil.rmtree(left, ignore_errors=True)
    place.tenant.mkdir(parents=True, mode=0o700)
    screen.say(f"Every command is one that you could type, in {place.root}.")
    with screen.chapter("the airlock image and the tenant's image"):
        built = build(place)
    story = Story(place, built)
    for title, chapter in CHAPTERS:
        with screen.chapter(title):
            chapter(story)
    screen.show_times()
    screen.say("The rack and the services go on. To look around, in a shell like this one:")
    for name, value in place.environment("blue").items():
        screen.say(f"  export {name}={value}")
    screen.say(f"  steelyard lab exec --dir {place.rack.root} steelyard node list")
    screen.say("./demo down ends all of it.")


def down(place: Place) -> None:
    """End whatever runs."""
    place.end_services()
    place.end_servers()
    if place.rack.root.exists():
        rack.down(place.rack, place.screen.say)


def main(verb: str, root: Path) -> int:
    """Do what was asked for; return the exit code."""
    console = Console()
    place = Place(root.resolve(), Screen(console, root.resolve()))
    try:
        check_root()
        {"up": up, "down": down}[verb](place)
    except SteelyardError as error:
        console.print(f"[red]demo: {error}[/red]", highlight=False, soft_wrap=True)
        console.print(f"{error.remedy} What ran goes on, to be looked at; ./demo down ends it.", highlight=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
