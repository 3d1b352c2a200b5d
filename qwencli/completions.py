"""What the shell offers where something that is here is named: models, chats, templates."""

import os
from collections.abc import Iterator


def complete_model(incomplete: str) -> Iterator[str]:
    """Names of the models that are here."""
    from qwencli.folders import Folders
    from qwencli.known_models import known_models

    for model in known_models(Folders.locate(os.environ)):
        if model.name.startswith(incomplete):
            yield model.name


def complete_release(incomplete: str) -> Iterator[tuple[str, str]]:
    """Short names of published models, and the user's own, with their repositories."""
    from qwen35.weights.catalogue import RELEASES
    from qwencli.folders import Folders
    from qwencli.settings import own_models

    names = own_models(Folders.locate(os.environ).config_file) | {own.alias: own.repo for own in RELEASES}
    for name, repo in names.items():
        if name.startswith(incomplete):
            yield name, repo


def complete_template(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of templates, with what they are about."""
    from qwencli.folders import Folders
    from qwencli.templates.template import sound_templates

    for template in sound_templates(Folders.locate(os.environ).templates)[0]:
        if template.name.startswith(incomplete):
            yield template.name, template.about


def complete_chat(incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of the saved conversations, with their titles."""
    from qwencli.conversations.store import Store
    from qwencli.folders import Folders

    store = Store.open_to_read(Folders.locate(os.environ).data)
    if store is not None:
        with store:
            for summary in store.summaries():
                if summary.id.startswith(incomplete):
                    yield summary.id, summary.title
