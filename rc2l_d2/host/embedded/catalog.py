"""Global catalogs: how to get a data set by its name, and what is known about it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _DatasetCatalog(UserDict):
    """Data set name -> function that returns its list of dataset dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a data set. ``func`` takes no arguments and returns the same list whenever it is called.

        Raises:
            AssertionError: ``func`` can't be called, or the name is taken.
        """
        assert callable(func), f"Data set '{name}' must be registered with a function, not with a {type(func).__name__}"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """The dataset dicts: calls the registered function.

        Raises:
            KeyError: no such data set; the message lists those that there are.
        """
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self.keys())}")
        return self[name]()

    def list(self) -> list[str]:
        """The names of all data sets."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget a data set."""
        self.pop(name)


class Metadata(SimpleNamespace):
    """What is known about one data set (``stuff_classes``, ``stuff_colors``, ``ignore_label`` ...), as attributes.

    An attribute, once set, keeps its value: setting another one raises AssertionError, since two places would
    otherwise speak of different data sets under one name. A missing attribute raises AttributeError.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are {list(self.__dict__)}."
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == value, (
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value: "
                f"{old} != {value}"
            )
        else:
            super().__setattr__(key, value)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes and return self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or ``default`` where it is missing."""
        return getattr(self, key, default)

    def as_dict(self) -> dict[str, Any]:
        """A copy of all attributes."""
        return dict(self.__dict__)


class _MetadataCatalog(UserDict):
    """Data set name -> Metadata; one object a name, made on first use."""

    def get(self, name: str) -> Metadata:
        """The metadata of a data set; empty where nothing is known yet."""
        assert len(name), "A data set has a name"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """All names that have metadata."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget the metadata of a data set."""
        self.pop(name)


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
