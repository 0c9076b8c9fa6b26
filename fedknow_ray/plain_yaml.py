"""YAML of strangers as plain values: no tag that makes objects, no alias, and one kind of error.

An alias makes a few lines stand for billions of values ("billion laughs"), and whoever prints or walks them never comes
to an end; no file of ours needs one.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import Node


class WithoutAliases(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses aliases."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Return the next node, unless it is an alias."""
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not supported; write it out", mark)
        return super().compose_node(parent, index)


def plain_yaml(text: str) -> Any:
    """Return the plain value of a YAML text.

    Raises:
        yaml.YAMLError: whatever is wrong with it; dates that there are not, thousands of digits and deep nesting too.
    """
    try:
        return yaml.load(text, Loader=WithoutAliases)  # a subclass of SafeLoader
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
