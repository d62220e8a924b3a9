"""Fill in the files of `templates/`. They use `[= value =]` and `[% statement %]`, because YAML, shell and Markdown don't."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["ACTIONS", "fill_in"]

ACTIONS = {
    "checkout": "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2",
    "setup_python": "actions/setup-python@a309ff8b426b58ec0e2a45f0f869d46889d02405 # v6.2.0",
    "upload_artifact": "actions/upload-artifact@043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1",
    "download_artifact": "actions/download-artifact@70fc10c6e5e1ce46ad2ea6f2b72d43f7d47b13c3 # v8.0.0",
    "app_token": "actions/create-github-app-token@bcd2ba49218906704ab6c1aa796996da409d3eb1 # v3.2.0",
}
"""The actions that the workflows use. Each is pinned to a commit, because a tag can be moved."""


def fill_in(template: str, **values: Any) -> str:
    """Fill in a template. A missing value is an error."""
    return _environment().get_template(template).render(actions=ACTIONS, **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("grader.exports"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        variable_start_string="[=",
        variable_end_string="=]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
