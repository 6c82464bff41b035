"""The docstrings of the package as Markdown, for the page of the Python API."""

import re

import griffe

SECTION = re.compile(r"^(Parameters|Returns|Raises)\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^([\w, ]+?) : ", re.MULTILINE)


class MarkdownDocstrings(griffe.Extension):
    """Sections become headings, and `name : text` the entry of a list."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = SECTION.sub(_as_list, obj.docstring.value)


def _as_list(section: re.Match[str]) -> str:
    title, body = section.groups()
    if title != "Returns":
        body = ENTRY.sub(lambda entry: f"`{entry[1]}`: ", body)
        body = re.sub(r"^(?=\S)", "- ", body, flags=re.MULTILINE)
    return f"**{title}**\n\n{body}"
