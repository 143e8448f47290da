"""What is free while a plan is made: all of it, and what nobody was promised.

Two fleets side by side. Runs that may be stopped at any moment see the first, all others the second; so a promised
place is filled meanwhile by who can leave it in time.
"""

from collections.abc import Callable, Iterable

from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Inventory
from headrace.placement.packing import Packing, Wish, best_placement
from headrace.placement.placements import Placement
from headrace.placement.reservations import kept_free
from headrace.placement.snapshot import Running


class FreePlaces:
    """A demand that does not fit is not tried again in the same plan, since the fleets only get fuller.

    `may_be_filled`: whether what is promised may be used by who can be stopped.
    """

    def __init__(self, inventory: Inventory, packing: Packing, running: Iterable[Running]) -> None:
        self.fleet = Fleet(inventory)
        self.fleet.take_all((run.run_id, run.placement) for run in running)
        # The same object as the fleet until something is promised.
        self.unpromised = self.fleet
        self.may_be_filled = True
        self._packing = packing
        # What fits nowhere: beside what is promised, or at all.
        self._no_fit: set[Demand] = set()
        self._no_fit_at_all: set[Demand] = set()

    def take(self, run_id: str, placement: Placement) -> None:
        self.fleet.take(run_id, placement)
        if self.unpromised is not self.fleet:
            self.unpromised.take(run_id, placement, found=True)

    def keep(self, run_id: str, demand: Demand, placement: Placement) -> Placement:
        """Promises what is free there; returns that."""
        if self.unpromised is self.fleet:
            self.unpromised = self.fleet.copy()
        kept = kept_free(self.unpromised, demand, placement)
        self.unpromised.take(f"kept for {run_id}", kept, found=True)
        return kept

    def place(
        self, demand: Demand, *, fills: bool, wishes: Callable[[Fleet], Iterable[Wish]] | None = None
    ) -> Placement | None:
        """The best place that is free for it.

        Args:
            fills: it may be stopped at any moment.
            wishes: where it would rather be, the most wished first; None: anywhere.
        """
        if demand not in self._no_fit:
            placement = self._best(self.unpromised, demand, wishes)
            if placement is not None:
                return placement
            self._no_fit.add(demand)
        if not self._may_fill(fills=fills) or demand in self._no_fit_at_all:
            return None
        placement = self._best(self.fleet, demand, wishes)
        if placement is None:
            self._no_fit_at_all.add(demand)
        return placement

    def fits_nowhere(self, demand: Demand, *, fills: bool) -> bool:
        """As `place` finds out."""
        if demand not in self._no_fit:
            if best_placement(self.unpromised, demand, self._packing) is not None:
                return False
            self._no_fit.add(demand)
        return not self._may_fill(fills=fills) or self.fits_nowhere_at_all(demand)

    def fits_nowhere_at_all(self, demand: Demand) -> bool:
        """Not even where it is promised."""
        if demand not in self._no_fit_at_all:
            if best_placement(self.fleet, demand, self._packing) is not None:
                return False
            self._no_fit_at_all.add(demand)
        return True

    def _may_fill(self, *, fills: bool) -> bool:
        return fills and self.may_be_filled and self.unpromised is not self.fleet

    def _best(self, fleet: Fleet, demand: Demand, wishes: Callable[[Fleet], Iterable[Wish]] | None) -> Placement | None:
        if wishes is None:
            return best_placement(fleet, demand, self._packing)
        for wish in wishes(fleet):
            placement = best_placement(fleet, demand, self._packing, wish)
            if placement is not None:
                return placement
        return None
