"""Global catalogs: the registered data sets and their metadata."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _Catalog(UserDict):
    def list(self) -> list[str]:
        """Return all names."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Delete a name."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Data set name -> function that returns its list of dataset dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a data set; AssertionError if the name is taken."""
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Call the registered function; KeyError with the known names if there is none."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self.keys())}")
        return self[name]()


class Metadata(SimpleNamespace):
    """Metadata of one data set (``stuff_classes``, ``stuff_colors``, ``ignore_label`` ...), as attributes.

    Setting an attribute to a second, different value raises AssertionError: it would mix two data sets of one name.
    """

    def __setattr__(self, key: str, value: Any) -> None:
        old = self.__dict__.get(key, value)
        assert old == value, f"'{key}' in the metadata of '{self.name}' has a different value: {old} != {value}"
        super().__setattr__(key, value)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes and return self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return the attribute, or ``default`` if it is missing."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Data set name -> Metadata; created empty on first use."""

    def get(self, name: str) -> Metadata:
        """Return the metadata of a data set."""
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
