"""One file a detector; each holds one frozen dataclass and `CHECK = ThatClass` (docs: CONTRIBUTING.md)."""
