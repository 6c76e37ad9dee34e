"""Links of the documentation's files as the site has them: a hook of mkdocs, named in `mkdocs.yml`."""

import re
from typing import Any

_OTHER_LANGUAGE = re.compile(r"\[(?:中文|English)\]\([\w-]+(?:\.zh)?\.md\)(?: · )?")


def on_page_markdown(markdown: str, **_page: Any) -> str:
    """Return a page without the link to its other language: the site has a switch for that."""
    head, heading, rest = markdown.partition("\n## ")
    return _OTHER_LANGUAGE.sub("", head) + heading + rest
