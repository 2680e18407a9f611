"""HTML pages as a strict reader sees them, independent of what wrote them."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}
URLS = ("src", "href", "srcset", "poster", "action", "data", "style")


@dataclass
class Node:
    """An element with its attributes, and its children and texts in order."""

    tag: str
    attributes: dict[str, str]
    children: list = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        """Yield the element and all within, in document order."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag: str, **attributes: str) -> list["Node"]:
        """Return the elements within of a tag, and with these attributes."""
        found = [node for node in self.walk() if node.tag == tag]
        return [node for node in found if all(node.attributes.get(name) == value for name, value in attributes.items())]

    def one(self, tag: str, **attributes: str) -> "Node":
        """Return the only element of a tag with these attributes."""
        (node,) = self.all(tag, **attributes)
        return node

    def classed(self, name: str) -> list["Node"]:
        """Return the elements within of a class."""
        return [node for node in self.walk() if name in node.attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        """The texts within, white space as one space."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                # Blocks do not run into each other.
                yield from child._texts() if child.tag in ("span", "a", "bdi", "strong") else (" ", *child._texts(), " ")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> where <{self.open[-1].tag}> is open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(path: Path) -> Node:
    """Return a page as a tree.

    Raises:
        AssertionError: an element is not closed where it should be, an attribute or an id is there twice, or a link leads nowhere.
    """
    reader = _Reader()
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    reader.feed(text)
    reader.close()
    assert [node.tag for node in reader.open] == ["document"]
    ids = [node.attributes["id"] for node in reader.root.walk() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    for link in reader.root.all("a"):
        href = link.attributes["href"]
        assert not href.startswith("#") or href[1:] in ids, href
    return reader.root


def urls_of(page: Node) -> list[str]:
    """Return every URL of a page's elements, and its style sheets."""
    found = [node.attributes[name] for node in page.walk() for name in URLS if name in node.attributes]
    return found + [node.text for node in page.all("style")]


def picture_of(image: Node) -> np.ndarray:
    """Return the pixels (h, w, 3) of an embedded image; its declared kind must be right."""
    head, content = image.attributes["src"].split(",")
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
        assert head == f"data:image/{picture.format.lower()};base64"
        return np.asarray(picture.convert("RGB"))
