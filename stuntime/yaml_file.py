"""YAML files that people write, read with the line of every value, so that an error can say where it is."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stuntime.errors import UsageError

if TYPE_CHECKING:
    from yaml import Node


@dataclass(frozen=True)
class Value:
    """A value of a YAML file: text, a number, a mapping, or None, and where it stands (`file:line`).

    `text` is how a text or number is written there: `8.10` stays apart from `8.1`.
    """

    content: "str | float | dict[str, Value] | None"
    where: str
    text: str = ""

    def mapping(self, what: str, known: tuple[str, ...] = ()) -> "dict[str, Value]":
        """Return a mapping; raise UsageError when it is none, or has a key that is not among `known` (if given)."""
        if not isinstance(self.content, dict):
            raise UsageError(f"{self.where}: {what} is no mapping", "write `name: value` lines, indented below it")
        for key, value in self.content.items():
            if known and key not in known:
                raise UsageError(f"{value.where}: {key!r} is not known in {what}", f"known are {', '.join(known)}")
        return self.content


def read_yaml(path: Path) -> Value:
    """Return what a YAML file holds; raise UsageError when it cannot be read or is no YAML."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "name a YAML file that exists") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, Loader=loader)
        if node is None:
            raise UsageError(f"{path}:1: the file says nothing", "leave the option out if nothing is to be said")
        return _value(node, str(path), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(f"{path}:{line}: this is no YAML: {error.problem}", "mend that line") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: this is no YAML: {error}", "mend it") from error


def _value(node: "Node", file: str, above: "tuple[Node, ...]") -> Value:
    import yaml

    where = f"{file}:{node.start_mark.line + 1}"
    if node in above:
        raise UsageError(f"{where}: this contains itself", "write it out")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Value] = {}
        for key, value in node.value:
            at = f"{file}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{at}: a key is no word", "write `name: value` lines")
            if key.value in found:
                raise UsageError(f"{at}: {key.value!r} is said twice", "say it once: nobody can know which one counts")
            found[key.value] = replace(_value(value, file, (*above, node)), where=at)
        return Value(found, where)
    if not isinstance(node, yaml.ScalarNode):
        raise UsageError(f"{where}: a list is not expected here", "write `name: value` lines")
    if node.tag == "tag:yaml.org,2002:null":
        return Value(None, where)
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        try:
            return Value(float(node.value), where, node.value)
        except ValueError:  # YAML's own forms: 0x10, 1_000, 1:30
            return Value(node.value, where, node.value)
    return Value(node.value, where, node.value)
