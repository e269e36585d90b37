"""A page read back: its elements, its text, the data in its links."""

import base64
import csv
import io
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Every element with its attributes and text; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.stack = [], [], []
        self.feed(text)
        self.close()
        assert self.stack == [], f"not closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID and (not self.stack or self.stack[-1] != tag):
            return
        assert self.stack, f"</{tag}> closes nothing"
        opened = self.stack.pop()
        assert opened == tag, f"<{opened}> closed by </{tag}>"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self, name):
        """The rows of the CSV file in the link of that name."""
        (link,) = [a for a in self.all("a") if a.get("download") == f"{name}.csv"]
        head, encoded = link["href"].split(",", 1)
        assert head == "data:text/csv;charset=utf-8;base64"
        return list(csv.DictReader(io.StringIO(base64.b64decode(encoded).decode())))
