"""YAML as engram reads and writes it: no key twice, no aliases, no deep nesting.

Aliases let a few bytes stand for gigabytes, and engram's own files hold none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError

if TYPE_CHECKING:
    import yaml

DEEPEST = 16  # levels of a file of options
MOST = 1_000_000  # characters


def read_options(path: str) -> dict[str, Any]:
    """Options by name in a YAML file; none in an empty one.

    Raises:
        ConfigError: it cannot be read, or is not what this module says.
    """
    import yaml  # 0.05 s, for files only

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise _fault("aliases are not allowed", self.peek_event())
            if self.depth > DEEPEST:
                raise _fault("nested too deeply", self.peek_event())
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise _fault(f"{key.value} is given twice", key)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        with open(path, encoding="utf-8") as file:  # a pipe of the shell's too
            text = file.read(MOST + 1)
        if len(text) > MOST:
            raise ValueError(f"more than {MOST:,} characters")
        loaded = yaml.load(text, Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"config must be a readable YAML file, got {path} ({' '.join(str(error).split())})."
        ) from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(
            f"config must hold options by name, got {path} with a {type(loaded).__name__}: see config.yaml."
        )
    return loaded or {}


def _fault(what: str, where: Any) -> Exception:
    import yaml  # as above

    return yaml.YAMLError(f"{what}, in line {where.start_mark.line + 1}")


def as_yaml(value: Any) -> str:
    """Plain values as YAML, in their order; what occurs twice is written twice."""
    import yaml  # as above

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False))
