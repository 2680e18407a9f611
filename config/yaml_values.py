"""YAML's plain values, for settings."""

import yaml

from config.messages import shown


class _Loader(yaml.SafeLoader):
    """A key that is there twice is an error, since all but one of its values would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for _, key in keys if keys.count((_, key)) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(problem=f"the key {shown(twice)} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> object:
    """Return the value of a YAML document; the parser and its constructors may raise anything."""
    return yaml.load(text, _Loader)
