"""YAML without repeated keys, of which YAML itself would use the last without a word."""

from __future__ import annotations

from typing import Any

import yaml

# The keys "<<", which merges another mapping, and "=".
_WITHOUT_VALUE = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


class _UniqueKeysLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag in _WITHOUT_VALUE:
                continue
            value = self.construct_object(key)  # 1, 01 and 0x1 are one key.
            if value in seen:
                problem = f"the key '{key.value}' is there a second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark, note="remove one")
            seen.add(value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return what ``text`` holds.

    Raises:
        yaml.YAMLError: it is not valid, or a key is repeated; then ``note`` holds advice.
    """
    return yaml.load(text, _UniqueKeysLoader)
