"""Fractions about the pseudo labels, for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

# Name in the log -> the counts whose quotient it is; for counts of each class, the mean of the quotients.
FRACTIONS = {
    "pseudo/confident_share": ("confident", "pixels"),
    "pseudo/regions_per_image": ("regions", "images"),
    "pseudo/classes_present": ("classes_present", "classes"),
    "pseudo/agreement": ("agreed", "compared"),
    "pseudo/accuracy": ("correct_of_all", "claimed_of_all"),
    "pseudo/precision": ("correct", "claimed"),
    "pseudo/recall": ("correct", "labelled"),
}


class PseudoLabelTelemetry:
    """Counts of :mod:`rc2l_d2.regions.statistics`, summed over steps on the device, and the fractions that are logged.

    docs/method.md lists the fractions. One with a denominator of zero is left out; precision and recall are also logged
    for each class, as ``pseudo/recall-<class>``.
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = list(class_names)
        self._sums: dict[str, Tensor] = {}

    def add(self, counts: dict[str, Tensor]) -> None:
        """Add counts, scalars or (K,), by name; nothing is copied to the host."""
        for name, count in counts.items():
            self._sums[name] = self._sums[name] + count if name in self._sums else count

    def take(self) -> dict[str, Tensor]:
        """Return the sums since the last call, by name, on the device."""
        sums, self._sums = self._sums, {}
        return sums

    def fractions(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the fractions by their names in the log.

        Args:
            sums: from :meth:`take`, summed over ranks and copied to the host.
        """
        totals = {name: total.double() for name, total in sums.items()}
        totals |= {f"{name}_of_all": total.sum() for name, total in totals.items()}
        fractions = {}
        for name, (counted, base) in FRACTIONS.items():
            if counted in totals and totals[base].any():
                known = totals[base] > 0
                fractions[name] = (totals[counted][known] / totals[base][known]).mean().item()
                if known.numel() > 1:
                    by_class = zip(self.class_names, (totals[counted] / totals[base]).tolist(), known, strict=True)
                    fractions |= {f"{name}-{label}": fraction for label, fraction, is_known in by_class if is_known}
        return fractions
