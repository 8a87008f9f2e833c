"""A contender: an engine, a variant of it and options, as `kvfs compare` names them."""

import json
import re

from store import call


class Contender:
    """`ENGINE[:VARIANT][:OPTION=VALUE]...`, or `plain`."""

    def __init__(self, name, options):
        self.name = name
        self.engine, *words = name.split(":")
        self.settings = []
        for word in words:
            if "=" not in word:
                word = f"{options[self.engine, word]}={word}"
            self.settings.append(word)

    def options(self, memory_bytes):
        """The options of its mount: the same memory for each, and the interval of syncs that is the default."""
        return ",".join([f"engine={self.engine}", f"memory={memory_bytes >> 20}M", *self.settings])

    @property
    def file_name(self):
        """Its name as part of a file name."""
        return re.sub(r"[^a-z0-9.=_-]+", "-", self.name)


def every(kvfs):
    """Names of all that the program has, engine by engine and variant by variant, and the option that chooses each variant."""
    listed = json.loads(call(kvfs, "engines", "--json"))
    names, options = ["plain"], {}
    for engine in listed:
        variants = engine["variants"]
        names += [f"{engine['name']}:{it['value']}" for it in variants] or [engine["name"]]
        options.update({(engine["name"], it["value"]): it["option"] for it in variants})
    return names, options
