"""Numbers about the pseudo labels, for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

# Name in the log -> the counts whose quotient it is; for counts of each class, the mean of the quotients.
SHARES = {
    "pseudo/confident_share": ("confident", "positions"),
    "pseudo/regions_per_image": ("regions", "images"),
    "pseudo/classes_present": ("classes_present", "classes"),
    "pseudo/agreement": ("agreed", "asked"),
    "pseudo/accuracy": ("correct_of_all", "claimed_of_all"),
    "pseudo/precision": ("correct", "claimed"),
    "pseudo/recall": ("correct", "labelled"),
}


class PseudoLabelTelemetry:
    """Counts (:mod:`rc2l_d2.regions.statistics`) summed over steps on the device, and what is logged of them.

    That is, over all images of all processes since the last time:

    - ``pseudo/confident_share``: of the positions inside the images, the share in a pseudo region;
    - ``pseudo/regions_per_image``;
    - ``pseudo/classes_present``: share of the classes that have a pseudo region in a process's batch, mean over steps;
    - ``pseudo/agreement``: of the confident positions, the share where the student, on the mixed strong view, says the
      same class;

    and, where labels are at hand, of the images before mixing:

    - ``pseudo/accuracy``: of the confident positions with a known label, the share whose pseudo label is right;
    - ``pseudo/precision``: the same class by class of the pseudo label, mean over the classes that were given;
    - ``pseudo/recall``: of the positions of a class, the share with the right, confident pseudo label, mean over the
      classes that occur. A class that the teacher loses shows here.

    Precision and recall are also logged class by class, as ``pseudo/recall-<class>``.

    A number without anything to divide by is left out.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        """``class_names``: K names."""
        self.class_names = list(class_names)
        self._sums: dict[str, Tensor] = {}

    def add(self, counts: dict[str, Tensor]) -> None:
        """Add counts, scalars or (K,), by their names; nothing is copied to the host."""
        for name, count in counts.items():
            self._sums[name] = self._sums[name] + count if name in self._sums else count

    def take(self) -> dict[str, Tensor]:
        """The sums since the last call, by name, on the device."""
        sums, self._sums = self._sums, {}
        return sums

    def shares(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """The numbers for the log.

        Args:
            sums: as :meth:`take` gave them, summed over processes and copied to the host.
        """
        # float64 holds every count that a run can reach.
        totals = {name: total.double() for name, total in sums.items()}
        totals |= {f"{name}_of_all": total.sum() for name, total in totals.items()}
        shares = {}
        for name, (part, whole) in SHARES.items():
            if part in totals and totals[whole].any():
                some = totals[whole] > 0
                shares[name] = (totals[part][some] / totals[whole][some]).mean().item()
                if some.numel() > 1:
                    by_class = zip(self.class_names, (totals[part] / totals[whole]).tolist(), some, strict=True)
                    shares |= {f"{name}-{label}": share for label, share, known in by_class if known}
        return shares
