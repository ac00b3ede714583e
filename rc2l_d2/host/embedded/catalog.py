"""Global catalogs: how to get a data set by its name, and what is known about it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _Catalog(UserDict):
    def list(self) -> list[str]:
        """All names."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget a name."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Data set name -> function that returns its list of dataset dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a data set; AssertionError where ``func`` can't be called or the name is taken."""
        assert callable(func), f"Data set '{name}' must be registered with a function, not with a {type(func).__name__}"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """The dataset dicts, from the registered function; KeyError, which lists the data sets, for another name."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self.keys())}")
        return self[name]()


class Metadata(SimpleNamespace):
    """What is known about one data set (``stuff_classes``, ``stuff_colors``, ``ignore_label`` ...), as attributes.

    An attribute, once set, keeps its value: setting another one raises AssertionError, since two places would
    otherwise speak of different data sets under one name. A missing attribute raises AttributeError.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"Dataset '{self.name}' has no metadata '{key}'. Available are {list(self.__dict__)}.")

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
        """The attribute, or ``default`` where it is missing."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Data set name -> Metadata; one object a name, made on first use."""

    def get(self, name: str) -> Metadata:
        """The metadata of a data set; empty where nothing is known yet."""
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
