"""The services of one server, made once and shared by pages and API."""

from __future__ import annotations

from bp_core.rewards.prompt_templates import SavedPrompts

from bp_ui.service.chats import Chats
from bp_ui.service.configs import Configs
from bp_ui.service.datasets import Datasets
from bp_ui.service.jobs import Jobs
from bp_ui.service.models import Models
from bp_ui.service.places import Places
from bp_ui.service.rewards import Sets
from bp_ui.service.runs import Runs
from bp_ui.service.system import System


class Services:
    """All of them.

    Args:
        places: the folders of the server.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.jobs = Jobs(places)
        self.runs = Runs(places, self.jobs)
        self.datasets = Datasets(places, self.jobs)
        self.models = Models(places, self.jobs)
        self.chats = Chats(places, self.jobs)
        self.configs = Configs(places)
        self.templates = SavedPrompts(places.output)
        self.rewards = Sets(places)
        self.system = System(places.output)


_services: list[Services] = []


def use(services: Services) -> None:
    """Make these the services of the process."""
    _services[:] = [services]


def services() -> Services:
    """The services of the process; the server made them before a page could ask."""
    return _services[0]
