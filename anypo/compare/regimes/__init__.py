"""Which method when: methods under different circumstances, with everything else equal."""

from anypo.compare.regimes.conditions import REGIMES, Regime, chosen
from anypo.compare.regimes.findings import Cell, Map, found
from anypo.compare.regimes.study import Study, study

__all__ = ["REGIMES", "Cell", "Map", "Regime", "Study", "chosen", "found", "study"]
